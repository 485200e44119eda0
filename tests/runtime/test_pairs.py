from pathlib import Path

import pytest

from garment_transfer.runtime.errors import InputError
from garment_transfer.runtime.pairs import Pair, read_pairs


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_read(tmp_path: Path, mark: str) -> None:
    path = write(tmp_path, f'{mark}person,garment_owner,output\na, b,out/c.png\n\n/x,"y,z",d.png\n')
    assert read_pairs(path) == [
        Pair(tmp_path / "a", tmp_path / "b", tmp_path / "out" / "c.png"),
        Pair(Path("/x"), tmp_path / "y,z", tmp_path / "d.png"),
    ]


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("", r"has the header \(none\); expected person,garment_owner,output"),
        ("a,b,c.png\n", r"has the header a,b,c\.png; expected person,garment_owner,output"),
        ("person,garment_owner,output\n", r"lists no pairs; add a line"),
        ("person,garment_owner,output\na,b\n", r"line 2: expected three cells"),
        ("person,garment_owner,output\na,,c.png\n", r"line 2: expected three cells"),
        ("person,garment_owner,output\na,b,c.png,d\n", r"line 2: expected three cells"),
        (
            "person,garment_owner,output\na,b,c.png\nd,e,c.png\n",
            r"line 3: the output c\.png is that of line 2 too; give each pair its own",
        ),
    ],
)
def test_bad_lists(tmp_path: Path, text: str, due: str) -> None:
    with pytest.raises(InputError, match=rf"pairs\.csv.*{due}"):
        read_pairs(write(tmp_path, text))


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"none\.csv cannot be read.*No such file.*expected a UTF-8"
    ):
        read_pairs(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bad\.csv cannot be read.*UTF-8"):
        read_pairs(tmp_path / "bad.csv")
