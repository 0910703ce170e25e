#!/bin/bash
#
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

# DevStack's plugin: nova-compute with this driver. In local.conf:
#
#     [[local|localrc]]
#     enable_plugin nova-snapdriver <URL of this repository>

# What the driver needs of the distribution: bindep.txt's first part.
function install_snapdriver_packages {
    if is_ubuntu; then
        install_package python3-libnbd qemu-utils
    elif is_fedora; then
        install_package python3-libnbd qemu-img
    else
        die $LINENO "nova-snapdriver: which package has libnbd's binding here?"
    fi
}

# Into Nova's own environment, which sees the distribution's packages.
function install_snapdriver {
    setup_develop $SNAPDRIVER_DIR
    $NOVA_BIN_DIR/nova-snapdriver register
}

# nova-compute's own file is made of this one when it is started.
function configure_snapdriver {
    local option
    iniset $NOVA_CONF DEFAULT compute_driver snapdriver.SnapDriver
    for option in $SNAPDRIVER_OPTIONS; do
        iniset $NOVA_CONF snapdriver "${option%%=*}" "${option#*=}"
    done
}

# QEMU's user must be able to enter the directory of its scratch files.
function open_snapdriver_scratch {
    local directory=$NOVA_INSTANCES_PATH
    while [[ $directory != / ]]; do
        sudo chmod o+x $directory
        directory=$(dirname $directory)
    done
}

function check_snapdriver {
    $NOVA_BIN_DIR/nova-snapdriver register --check
}

if is_service_enabled n-cpu; then
    if [[ $VIRT_DRIVER != libvirt ]]; then
        die $LINENO "nova-snapdriver is a libvirt driver: VIRT_DRIVER is $VIRT_DRIVER"
    fi
    case "$1 ${2:-}" in
        "stack pre-install")
            install_snapdriver_packages
            ;;
        "stack install")
            install_snapdriver
            ;;
        "stack post-config")
            configure_snapdriver
            open_snapdriver_scratch
            check_snapdriver
            ;;
        "clean ")
            $NOVA_BIN_DIR/nova-snapdriver register --remove
            ;;
    esac
fi
