"""config.toml: every problem has file, line, key and reason; drop-ins and flags win in their order."""

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.base.errors import InvalidArgument
from orlop.daemon.config import Flags, Handler, NriConfig, check, load, read
from orlop.daemon.toml_lines import key_lines
from orlop.nri.rules import Rules


def write(directory: Path, text: str, **drop_ins: str) -> Flags:
    (directory / "config.toml").write_text(text)
    (directory / "config.d").mkdir(exist_ok=True)
    for name, content in drop_ins.items():
        (directory / "config.d" / f"{name}.toml").write_text(content)
    return Flags(config=directory / "config.toml")


def problems(directory: Path, text: str, **drop_ins: str) -> list[str]:
    return [str(each).removeprefix(f"{directory}/") for each in read(write(directory, text, **drop_ins))[1]]


def test_nothing_given(tmp_path):
    config = load(write(tmp_path, ""))
    assert config.root == Path("/var/lib/orlop")
    assert config.runtime.handlers == {"orlop": Handler()}
    assert config.runtime.default_ulimits == ()
    assert config.runtime.log_rate == 0
    assert config.runtime.rootfs_size == 0
    assert config.runtime.cdi_spec_dirs == (Path("/etc/cdi"), Path("/var/run/cdi"))


def test_everything_given(tmp_path):
    config = load(
        write(
            tmp_path,
            """
root = "/r"
[registry]
config_path = "/certs"
[cni]
conf_dir = "/c"
bin_dirs = ["/b1",
  "/b2"]
[network]
bridge = "orlop9"
subnets = ["10.9.0.0/16", "fd00::/64"]
[runtime]
default_handler = "crun"
cgroup_driver = "systemd"
default_ulimits = ["nofile=1:2", "core=0"]
log_rate = "1Mi"
rootfs_size = "10Gi"
cdi_spec_dirs = []
[runtime.handlers.crun]
type = "oci"
path = "/usr/bin/crun"
[metrics]
address = "127.0.0.1:9100"
[nri]
enabled = false
socket_path = "/n.sock"
disable_connections = true
plugin_path = "/p"
plugin_config_path = "/c"
registration_timeout = 7
request_timeout = "500ms"
[nri.default_validator]
enable = true
reject_sysctl_adjustment = true
required_plugins = ["10-net"]
tolerate_missing_plugins_annotation = "k"
[log]
format = "json"
""",
        )
    )
    assert config.nri == NriConfig(
        enabled=False,
        socket_path=Path("/n.sock"),
        disable_connections=True,
        plugin_path=Path("/p"),
        plugin_config_path=Path("/c"),
        registration_timeout=7.0,
        request_timeout=0.5,
        default_validator=Rules(
            enable=True,
            reject_sysctl_adjustment=True,
            required_plugins=("10-net",),
            tolerate_missing_plugins_annotation="k",
        ),
    )
    assert config.cni.bin_dirs == (Path("/b1"), Path("/b2"))
    assert config.runtime.handlers["crun"] == Handler(type="oci", path=Path("/usr/bin/crun"))
    assert config.runtime.default_handler == "crun"
    assert config.network.subnets == ("10.9.0.0/16", "fd00::/64")
    assert config.log.format == "json"


def test_drop_ins_win_by_name_and_flags_over_all(tmp_path):
    flags = write(
        tmp_path,
        'root = "/a"\n[log]\nlevel = "error"\n',
        b='[log]\nlevel = "debug"\n',
        a='root = "/b"\n[log]\nlevel = "info"\n',
    )
    config = load(flags)
    assert (config.root, config.log.level) == (Path("/b"), "debug")
    assert load(Flags(config=flags.config, root=Path("/flag"), log_level="warning")).root == Path("/flag")


def test_problems_name_file_line_key_and_reason(tmp_path):
    assert problems(
        tmp_path,
        """root = 5
[runtime]
cgroup_drivr = "x"
handlers = { kata = { type = "vm" } }
[cni]
bin_dirs = [
  "/ok", "not/absolute",
]
""",
        z='\n\n[runtime.handlers."a b"]\ntype = "orlop"\n[metrix]\naddress = ""\n',
    ) == [
        "config.toml:1: root: must be a string, not a number",
        "config.toml:3: runtime.cgroup_drivr: unknown key; did you mean cgroup_driver?",
        "config.toml:4: runtime.handlers.kata.type: 'vm' is not orlop or oci",
        "config.toml:6: cni.bin_dirs: 'not/absolute' is not an absolute path",
        "config.d/z.toml:5: metrix: unknown key; did you mean metrics?",
        "config.d/z.toml:3: runtime.handlers.a b: 'a b' is not a handler name",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[runtime]\ndefault_handler = "x"', "2: runtime.default_handler: there is no [runtime.handlers.x]"),
        ('[runtime.handlers.x]\ntype = "oci"', "1: runtime.handlers.x: type oci needs path, the OCI runtime's program"),
        (
            '[runtime.handlers.orlop]\ntype = "oci"',
            "1: runtime.handlers.orlop: this name is built in and can't be of type oci",
        ),
        ("cni = 5", "1: cni: must be a table, not a number"),
        ('listen = "tcp://1"', "1: listen: 'tcp://1' is not unix:///PATH"),
        ("[streaming]\nport = true", "2: streaming.port: must be a port from 0 to 65535"),
        (
            '[streaming]\ntls_cert_file = "/x"',
            "2: streaming.tls_cert_file: needs streaming.tls_key_file as well",
        ),
        ('[metrics]\naddress = ":0"', "2: metrics.address: ':0' is not HOST:PORT"),
        (
            '[network]\nsubnets = ["10.0.0.1/8"]',
            "2: network.subnets: '10.0.0.1/8' is not a subnet: 10.0.0.1/8 has host bits set",
        ),
        (
            '[nri.default_validator]\nrequired_plugins = "x"',
            "2: nri.default_validator.required_plugins: must be a list of names, not a string",
        ),
        (
            "[nri.default_validator]\nreject_hooks = true",
            "2: nri.default_validator.reject_hooks: unknown key; did you mean reject_oci_hook_adjustment?",
        ),
        ("[nri]\nenabled = 1", "2: nri.enabled: must be true or false, not a number"),
        (
            "[nri]\nrequest_timeout = 0",
            '2: nri.request_timeout: must be seconds above 0 and up to 3600, such as 5, 0.5 or "500ms"',
        ),
        (f'[nri]\nsocket_path = "/{"x" * 108}"', "2: nri.socket_path: the path is longer than 107 bytes"),
        ("a = = 1", "1: invalid value"),
    ],
)
def test_single_problems(tmp_path, text, problem):
    assert problems(tmp_path, text) == [f"config.toml:{problem}"]


def test_programs_of_handlers_are_looked_at_only_by_the_check(tmp_path):
    program = tmp_path / "program"
    program.write_text("")
    text = f"""[runtime.handlers.a]
type = "oci"
path = "{program}"
[runtime.handlers.b]
type = "oci"
path = "/nonexistent/x"
[runtime.handlers.c]
type = "oci"
path = "/bin/sh"
"""
    flags = write(tmp_path, text)
    assert load(flags).runtime.handlers["b"].path == Path("/nonexistent/x")
    assert [str(each).removeprefix(f"{tmp_path}/") for each in check(flags)] == [
        f"config.toml:3: runtime.handlers.a.path: {program} is not an executable file",
        "config.toml:6: runtime.handlers.b.path: /nonexistent/x does not exist",
    ]


def test_a_file_that_was_asked_for_must_exist(tmp_path):
    with pytest.raises(InvalidArgument, match="does not exist"):
        load(Flags(config=tmp_path / "no.toml"))


def test_reload_applies_the_level_and_names_the_rest(tmp_path):
    root = logging.getLogger()
    level = root.level
    try:
        config = load(write(tmp_path, ""))
        write(tmp_path, 'root = "/x"\n[log]\nlevel = "debug"\n')
        assert config.reload() == ("root (at the next start)", "log.level")
        assert root.level == logging.DEBUG
    finally:
        root.setLevel(level)


def test_lines_of_keys():
    text = '''# comment
a = """
b = 1
""" # [x]
"quoted.key" = 'it # is'
[t.u]   # header
c.d = [ # more
  1, "]",
]
e = { f = 1 }
[[array]]
g = 1
'''
    assert key_lines(text) == {
        ("a",): 2,
        ("quoted.key",): 5,
        ("t", "u"): 6,
        ("t", "u", "c"): 7,
        ("t", "u", "c", "d"): 7,
        ("t", "u", "e"): 10,
        ("array",): 11,
        ("array", "g"): 12,
    }


@given(st.text(alphabet="ab=[]{}\".'\n# \\1", max_size=60))
def test_lines_of_keys_end_on_any_text(text):
    key_lines(text)
