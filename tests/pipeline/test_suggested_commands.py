"""Commands that messages suggest are about the versions that the message is about."""

import re
import shlex

from components.common.versions import offered
from components.pusher import publishing
from pipeline import cli
from serving.rollout.labels import Labels


def test_suggested_commands_work_as_they_stand_and_from_another_folder(tmp_path, capsys, monkeypatch):
    model = tmp_path / "export"
    (model / "variables").mkdir(parents=True)
    for name in ("saved_model.pb", "variables/variables.index"):
        (model / name).write_bytes(b"a part")
    base, folder = tmp_path / "my models", tmp_path / "elsewhere"
    folder.mkdir()
    (tmp_path / "run.yaml").write_text("name: words\npush: {model_dir: my models}\n")
    first, second = (publishing.push(str(model), str(base), keep=5) for _ in range(2))

    def suggested(command, *arguments, code=cli.OK):
        monkeypatch.chdir(tmp_path if arguments else folder)
        assert cli.main([*shlex.split(command), *arguments]) == code
        found = re.search(r"htr ((restore|promote|rollback) .*?)(`|$)", "".join(capsys.readouterr()), re.M)
        return found and found[1].replace(" --label LABEL --server HOST:PORT", " --label stable")

    given = ["--config", "run.yaml", "--workspace", "my work"]
    undo = suggested("rollback", *given)
    assert suggested("versions", *given) == undo
    assert suggested(f"promote {second} --label stable", *given, code=cli.USAGE) == undo
    assert suggested(undo) is None and len(offered(str(base))) == 2
    suggested(f"promote {first} --label stable", *given)
    promote = suggested(suggested("rollback", *given))
    suggested(promote)
    back = suggested("rollback", *given, code=cli.ERROR)
    suggested(back)
    assert Labels.read(str(base), "words").labels == {"stable": first}
