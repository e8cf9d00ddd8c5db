"""What a node promises to saved graphs, as plain values: the same on every host and with any files on disk."""

FROM_FOLDERS = {  # choices are files found
    "folder", "source_name", "vae_name", "text_encoder_name", "resume_from", "file", "vitpose_model", "person_detector",
    "openpose_model", "adapter_name",
}  # fmt: skip


def promised(node) -> dict:
    """Inputs and outputs of a node class as plain values."""
    told = node.GET_NODE_INFO_V1()
    inputs = []
    for group in ("required", "optional"):
        for name, (kind, *more) in told["input"].get(group, {}).items():
            settings = more[0] if more else {}
            found_on_disk = name in FROM_FOLDERS or (told["name"], name) == ("MotionBlocksLoadModel", "model_name")
            choices = kind if isinstance(kind, list) else settings.get("options")
            inputs.append({
                "name": name, "group": group, "type": "COMBO" if isinstance(kind, list) else kind,
                **{key: settings[key] for key in ("default", "min", "max", "step", "forceInput") if key in settings},
                **({"choices": choices} if choices and not found_on_disk else {}),
            })  # fmt: skip
    return {"inputs": inputs, "outputs": list(zip(told["output_name"], map(str, told["output"]))),
            "output_node": told["output_node"]}  # fmt: skip
