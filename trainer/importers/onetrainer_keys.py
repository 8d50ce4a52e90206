"""OneTrainer's settings that have no counterpart here, and its own defaults of them.

By ``modules/util/config/TrainConfig.py`` of OneTrainer; a file of it holds every setting, so its defaults say nothing.
"""

from __future__ import annotations

from typing import Any

_OTHER_MODELS = (
    "prior transformer unconditional_transformer text_encoder_3 text_encoder_4 effnet_encoder decoder "
    "decoder_text_encoder decoder_vqgan quantization text_encoder_sequence_length text_encoder_2_sequence_length "
    "text_encoder_3_layer_skip text_encoder_4_layer_skip frames"
)
_OWN_MATTERS = (
    "__version cloud secrets embedding embeddings additional_embeddings embedding_learning_rate embedding_weight_dtype "
    "preserve_embedding_norm optimizer_defaults debug_mode debug_dir workspace_dir cache_dir huggingface_cache_dir "
    "tensorboard tensorboard_expose tensorboard_always_on tensorboard_port continue_last_backup prevent_overwrites "
    "include_train_config dataloader_threads temp_device samples_to_tensorboard sample_image_format "
    "sample_video_format sample_audio_format async_offloading enable_async_offloading enable_activation_offloading "
    "concept_stats vae.model_name unet.model_name text_encoder.model_name"
)
IGNORED = frozenset(f"{_OTHER_MODELS} {_OWN_MATTERS}".split())
"""Of other model families, or of OneTrainer's own working: nothing of it shapes a LoRA."""

DEFAULTS: dict[str, tuple[Any, ...]] = {
    "offline_mode": (False,), "validation": (False,), "validate_after": (1,), "validate_after_unit": ("EPOCH",),
    "multi_gpu": (False,), "device_indexes": ("",), "gradient_reduce_precision": ("FLOAT_32_STOCHASTIC",),
    "fused_gradient_reduce": (True,), "async_gradient_reduce": (True,), "async_gradient_reduce_buffer": (100,),
    "output_dtype": ("FLOAT_32",), "output_model_format": ("SAFETENSORS",), "aspect_ratio_bucketing": (True,),
    "latent_caching": (True,), "clear_cache_before_training": (True,), "ema_update_step_interval": (5,),
    "train_device": ("cuda",), "fallback_train_dtype": ("BFLOAT_16",), "enable_autocast_cache": (True,),
    "attention_mechanism": ("SDP",), "vb_loss_strength": (1.0,), "loss_scaler": ("NONE",),
    "learning_rate_scaler": ("NONE",), "max_noising_strength": (1.0,), "timestep_distribution": ("UNIFORM",),
    "timestep_shift": (1.0,), "unmasked_probability": (0.1,), "lora_weight_dtype": ("FLOAT_32",),
    "bundle_additional_embeddings": (True,), "lora_decompose_norm_epsilon": (True,), "oft_block_size": (32,),
    "lokr_dora_on_output": (True,), "lokr_vec_trick": (True,), "sample_skip_first": (0,), "non_ema_sampling": (True,),
    "backup_after": (30,), "backup_after_unit": ("MINUTE",), "rolling_backup": (False,), "rolling_backup_count": (3,),
    "backup_before_save": (True,), "save_skip_first": (0,), "save_filename_prefix": ("",),
    "unet.weight_dtype": ("FLOAT_32",), "weight_dtype": ("FLOAT_32",), "optimizer.beta1": (0.9, 0.95),
    "optimizer.beta2": (0.999, 0.99), "optimizer.eps": (1e-08, 1e-30), "optimizer.eps2": (0.001, 1e-16),
    "optimizer.d0": (1e-06,), "optimizer.slice_p": (11,), "optimizer.r": (0.0,), "optimizer.weight_lr_power": (2.0,),
    "optimizer.clip_threshold": (1.0,), "optimizer.decay_rate": (-0.8,), "optimizer.optim_bits": (32, 8),
    "optimizer.min_8bit_size": (4096,), "optimizer.percentile_clipping": (100,), "optimizer.momentum": (0, 0.0),
    "optimizer.amsgrad": (False,), "optimizer.decouple": (True,), "optimizer.scale_parameter": (False,),
    "text_encoder_2.stop_training_after": (30,),
}  # fmt: skip
"""Settings without a counterpart at these values say nothing."""

_GROUPS: dict[str, str] = {
    "validation validate_after validate_after_unit": "set validation_images (how many) and validation_steps",
    "multi_gpu device_indexes gradient_reduce_precision fused_gradient_reduce async_gradient_reduce "
    "async_gradient_reduce_buffer": "a run uses one card; set device",
    "output_dtype lora_weight_dtype": "the LoRA is fp32: what was trained, to the last bit",
    "output_model_format": "files are safetensors in kohya's naming, which every program reads",
    "aspect_ratio_bucketing": "every image is trained in its own shape",
    "latent_caching clear_cache_before_training only_cache": "images are encoded once, and kept for all runs",
    "ema_update_step_interval": "the average is taken at every step",
    "train_device": "set device",
    "fallback_train_dtype enable_autocast_cache": "left out; mixed_precision decides",
    "attention_mechanism": "PyTorch's own attention is used",
    "vb_loss_strength mae_strength log_cosh_strength loss_scaler": "left out; the loss is mse or huber, its mean",
    "learning_rate_scaler": "multiply learning_rate yourself",
    "learning_rate_min_factor custom_learning_rate_scheduler scheduler_params": "left out; the rate falls to 0",
    "generalized_offset_noise perturbation_noise_weight": "left out; noise_offset is the nearest",
    "min_noising_strength max_noising_strength timestep_distribution noising_weight noising_bias timestep_shift "
    "dynamic_timestep_shifting": "all timesteps are trained alike",
    "unmasked_probability normalize_masked_area_loss masked_prior_preservation_weight unmasked_weight": (
        "left out; each image's loss is the mean over its mask"
    ),
    "custom_conditioning_image": "left out",
    "force_circular_padding": "left out",
    "layer_filter_regex": "left out; lora_blocks and lora_targets choose layers",
    "lora_decompose_norm_epsilon lora_decompose_output_axis lokr_dora_on_output": "left out",
    "lokr_decompose_both lokr_use_tucker lokr_full_matrix lokr_vec_trick": "left out; lokr_factor says the sizes",
    "oft_block_size oft_block_share oft_scaled": "left out",
    "bundle_additional_embeddings": "embeddings are not trained",
    "sample_skip_first non_ema_sampling": "left out; samples are of what would be saved",
    "backup_after backup_after_unit rolling_backup rolling_backup_count backup_before_save": (
        "not needed: the newest two checkpoints can be gone on from"
    ),
    "save_skip_first save_filename_prefix save_every_unit sample_after_unit": "left out",
    "offline_mode": "nothing is downloaded, ever",
    "compile": "left out; it changes no result",
    "layer_offload_fraction unet.offload_fraction unet.activation_offloading text_encoder.offload_fraction "
    "text_encoder_2.offload_fraction text_encoder.activation_offloading text_encoder_2.activation_offloading": (
        "left out; batch_size: 1 with accumulation saves the most"
    ),
    "unet.weight_dtype weight_dtype": "the base model is in mixed_precision",
    "vae.model_name": "the base model's own VAE is used",
    "text_encoder_2.learning_rate": "both text encoders have text_encoder_learning_rate",
    "text_encoder_2.dropout_probability": "both text encoders have caption_dropout",
    "unet.stop_training_after": "the UNet is trained to the end",
    "text_encoder_2.stop_training_after": "the text encoder is trained to the end",
    "optimizer.beta1 optimizer.beta2 optimizer.beta3 optimizer.eps optimizer.eps2 optimizer.d0 optimizer.slice_p "
    "optimizer.r optimizer.weight_lr_power optimizer.clip_threshold optimizer.decay_rate optimizer.optim_bits "
    "optimizer.min_8bit_size optimizer.percentile_clipping optimizer.momentum optimizer.amsgrad optimizer.decouple "
    "optimizer.scale_parameter": "left out; see optimizer_args",
}
LEFT_OUT = {key: text for keys, text in _GROUPS.items() for key in keys.split()}
"""Setting -> why it has no counterpart."""

TAKEN = frozenset(
    {
        *(f"unet.{name}" for name in ("train", "learning_rate", "gradient_checkpointing")),
        *(f"text_encoder.{name}" for name in ("train", "learning_rate", "dropout_probability", "stop_training_after")),
        *("text_encoder.stop_training_after_unit", "text_encoder_2.train"),
        *(f"optimizer.{name}" for name in ("optimizer", "weight_decay", "d_coef")),
        *("optimizer.use_bias_correction", "optimizer.safeguard_warmup"),
    }
)
"""Inner settings that have a counterpart."""

# Theirs -> ours, weight decay where the file says none, and what is to be said of it.
OPTIMIZERS: dict[str, tuple[str, float, str]] = {
    "ADAMW": ("adamw", 0.01, ""),
    "ADAMW_ADV": ("adamw", 0.0, "the plain one"),
    "ADAMW_8BIT": ("adamw8bit", 0.01, ""),
    "LION": ("lion", 0.0, ""),
    "LION_8BIT": ("lion", 0.0, "its state is in 32 bit"),
    "ADAFACTOR": ("adafactor", 0.0, "at the rate that is given, without scale_parameter and relative_step"),
    "PRODIGY": ("prodigy", 0.0, ""),
    "PRODIGY_ADV": ("prodigy", 0.0, "the plain one"),
    "PRODIGY_PLUS_SCHEDULE_FREE": ("prodigy", 0.0, "without its averaging"),
    "DADAPT_ADAM": ("prodigy", 0.0, "it finds the rate by itself, too"),
    "DADAPT_LION": ("prodigy", 0.0, "it finds the rate by itself, too"),
    "SCHEDULE_FREE_ADAMW": ("schedulefree", 0.01, ""),
}
SCHEDULES = {
    "CONSTANT": "constant", "LINEAR": "linear", "COSINE": "cosine", "COSINE_WITH_RESTARTS": "cosine_with_restarts",
    "COSINE_WITH_HARD_RESTARTS": "cosine_with_restarts",
}  # fmt: skip
