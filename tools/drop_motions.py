"""Leave motions out of a model file: `python tools/drop_motions.py FILE OUTPUT spin`. The weights stay the same."""

import argparse
import json
from pathlib import Path

from train_builtin import mount_pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("motions", nargs="+")
    arguments = parser.parse_args()
    mount_pack()
    from pack.motion.io.file_motions import file_motions
    from pack.motion.io.motion_model_file import read_motion_model, save_motion_model

    file = read_motion_model(arguments.file)
    words = file_motions(file.metadata)
    kept = [word for word in words if word not in arguments.motions]
    text = dict(file.text_encoder)
    text["embedding.weight"] = text["embedding.weight"][[0, *(words.index(word) + 1 for word in kept)]].contiguous()
    own = file.spec.to_metadata()
    facts = {name: value for name, value in file.metadata.items() if name not in own}
    facts |= {"motions": json.dumps(kept), "dropped": json.dumps(arguments.motions)}
    save_motion_model(arguments.output, file.spec, file.state_dict, text, extra_metadata=facts)
    print(f"{arguments.output}: {', '.join(kept)}")


if __name__ == "__main__":
    main()
