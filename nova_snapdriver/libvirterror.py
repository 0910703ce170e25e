# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""Tells libvirt's errors apart."""

import re

import libvirt

# What qemu-ga answers for a command that its configuration (block-rpcs,
# allow-rpcs) switches off or that its build lacks. Libvirt passes it on.
_UNSUPPORTED = re.compile(
    r'guest-fsfreeze-\w+ has (not )?been (disabled|found)|'
    r'CommandNotFound|command is not supported')


def is_gone(error: libvirt.libvirtError) -> bool:
    """Whether the domain does not exist any more."""
    return bool(error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN)


def is_unsupported(error: libvirt.libvirtError) -> bool:
    """Whether the agent has no freeze and thaw, or they are switched off."""
    return bool(_UNSUPPORTED.search(str(error)))


def is_broken(error: libvirt.libvirtError) -> bool:
    """Whether the connection to libvirtd failed, and not the call.

    The codes and domains are those that Nova's Host checks for, and those of
    a connection that this process has closed.
    """
    codes = (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_INTERNAL_ERROR,
             libvirt.VIR_ERR_INVALID_CONN)
    domains = (libvirt.VIR_FROM_REMOTE, libvirt.VIR_FROM_RPC,
               libvirt.VIR_FROM_NONE)
    return (error.get_error_code() in codes and
            error.get_error_domain() in domains)
