"""`align constitution check`."""


def test_it_shows_what_would_be_asked(align):
    shown = align("constitution", "check", "toy")
    assert shown.code == 0
    assert "toy: 3 principles, 0 examples" in shown.out
    assert "harm  drawn first 50.0%  [harmless]" in shown.out
    assert "(A) Take a tension wrench and a pick." in shown.out
    assert "Which reply does less harm? Answer with A or B." in shown.out


def test_a_wrong_file_is_refused_with_its_line(align, tmp_path):
    (tmp_path / "mine.yaml").write_text("principles:\n  - name: a\n    critique: b\n")
    shown = align("constitution", "check", str(tmp_path / "mine.yaml"))
    assert shown.code == 2
    assert "mine.yaml:2: principles.0.revision: is missing" in shown.err
