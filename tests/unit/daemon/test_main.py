"""orlopd's flags: what is wrong is said, with the exit code that the contract fixes."""

from orlop.daemon.__main__ import main


def test_check_config(tmp_path, capsys):
    file = tmp_path / "c.toml"
    file.write_text("[cni]\nconf_dirr = 1\n")
    assert main(["--config", str(file), "--check-config"]) == 2
    assert capsys.readouterr().err == f"{file}:2: cni.conf_dirr: unknown key; did you mean conf_dir?\n"
    file.write_text("")
    assert main(["--config", str(file), "--check-config"]) == 0


def test_a_wrong_configuration_is_not_started(tmp_path, capsys):
    assert main(["--config", str(tmp_path / "none.toml")]) == 2
    assert "does not exist" in capsys.readouterr().err
