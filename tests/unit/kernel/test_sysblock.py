import os

from orlop.kernel.sysblock import block_device


def test_names(tmp_path):
    os.symlink("../../devices/pci0/block/sda/sda1", tmp_path / "8:1")
    os.symlink("../../devices/x/block/cciss!c0d0", tmp_path / "104:0")
    assert block_device("8:1", str(tmp_path)) == "/dev/sda1"
    assert block_device("104:0", str(tmp_path)) == "/dev/cciss/c0d0"
    assert block_device("0:50", str(tmp_path)) == "0:50"


def test_every_device_of_this_host_has_a_name():
    for number in os.listdir("/sys/dev/block"):
        assert block_device(number).startswith("/dev/")
