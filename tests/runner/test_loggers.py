import pytest

from runner.loggers import wandb_key_is_set


@pytest.mark.parametrize(
    ("machine", "url", "known"),
    [
        ("api.wandb.ai", "", True),
        ("api.forge.coreweave.com", "", True),
        ("github.com", "", False),
        ("wandb.lab.edu:8080", "http://wandb.lab.edu:8080", True),
        ("api.wandb.ai", "http://wandb.lab.edu:8080", False),
    ],
)
def test_a_key_from_wandb_login_is_found(machine, url, known, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text(f"machine {machine}\n  login user\n  password {'0' * 40}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", url)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert wandb_key_is_set() is known
