"""The file of the default system message."""

from pathlib import Path

import pytest

from homegrown.tokenizer.chat_files import load_system, save_system
from homegrown.util.errors import UserError


@pytest.mark.parametrize("system", ["Be brief.", " naïve\r\n\n'日本' \\n \" \u2028"])
def test_it_round_trips(tmp_path: Path, system: str) -> None:
    save_system(tmp_path, system)
    assert load_system(tmp_path) == system
    save_system(tmp_path, None)
    assert load_system(tmp_path) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", [b"", b"[]", b'{"system": 1}', b'{"system": "a", "more": 1}', b'{"system": "\xff"}'])
def test_a_damaged_file_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "chat.json").write_bytes(data)
    with pytest.raises(UserError, match=r"chat\.json is damaged"):
        load_system(tmp_path)
