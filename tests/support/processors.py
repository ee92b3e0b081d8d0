"""What preprocessor_config.json says in the checkpoints that tests make."""

LLAVA = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 16}, "crop_size": 16}
QWEN2_VL = {"image_processor_type": "Qwen2VLImageProcessor"}
