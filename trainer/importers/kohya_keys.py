"""kohya's options that have no counterpart here, each with why, and what to do instead.

By sd-scripts' own list of options (``train_network.py``, ``library/train_util.py``), and lora-scripts'.
"""

from __future__ import annotations

_GROUPS: dict[str, str] = {
    "cache_latents cache_latents_to_disk vae_batch_size skip_cache_check cache_info": (
        "not needed: images are encoded once, and kept"
    ),
    "cache_text_encoder_outputs cache_text_encoder_outputs_to_disk text_encoder_batch_size": (
        "not needed: captions are encoded once, and kept, unless the text encoder is trained"
    ),
    "xformers sdpa mem_eff_attn": "not needed: PyTorch's own attention is used",
    "max_data_loader_n_workers persistent_data_loader_workers": "not needed: nothing is decoded while it trains",
    "no_half_vae": "not needed: the VAE computes in fp32",
    "max_token_length": "not needed: captions of any length are encoded, in chunks of 75 tokens",
    "save_state save_state_on_train_end save_last_n_epochs_state save_last_n_steps_state": (
        "not needed: the newest two checkpoints can be gone on from"
    ),
    "lowram highvram disable_mmap_load_safetensors": "not needed: only the UNet is on the card while it trains",
    "full_fp16 full_bf16 fp8_base fp8_base_unet": "the base model is in mixed_precision, the LoRA in fp32",
    "logging_dir log_with log_prefix log_tracker_name log_tracker_config wandb_run_name wandb_api_key log_config": (
        "logs lie in <output_dir>/logs, for TensorBoard"
    ),
    "huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token "
    "huggingface_repo_visibility save_state_to_huggingface resume_from_huggingface async_upload": (
        "nothing is uploaded or downloaded"
    ),
    "resume skip_until_initial_step initial_epoch initial_step": (
        "runs of another trainer cannot be gone on with; own ones by: python -m trainer train --resume RUN"
    ),
    "save_every_n_epochs save_n_epoch_ratio": "set save_steps: checkpoints are counted in optimizer steps",
    "save_last_n_epochs save_last_n_steps": "the LoRAs of all checkpoints are kept",
    "save_precision": "files are fp32: what was trained, to the last bit",
    "no_metadata training_comment output_config": "files always hold the settings, in their header",
    "sample_sampler": "samples are drawn by Euler steps",
    "sample_every_n_epochs": "set sample_every, in optimizer steps",
    "sample_at_first": "the first samples are drawn after sample_every steps",
    "multires_noise_iterations multires_noise_discount adaptive_noise_scale noise_offset_random_strength "
    "ip_noise_gamma ip_noise_gamma_random_strength perlin_noise": "left out; noise_offset is the nearest",
    "min_timestep max_timestep": "all timesteps are trained",
    "debiased_estimation_loss scale_v_pred_loss_like_noise_pred v_pred_like_loss": (
        "left out; min_snr_gamma is the nearest"
    ),
    "weighted_captions": "brackets in captions are text, not weights",
    "caption_tag_dropout_rate caption_dropout_every_n_epochs token_warmup_min token_warmup_step": (
        "left out; caption_dropout drops whole captions"
    ),
    "caption_suffix secondary_separator keep_tokens_separator enable_wildcard": "left out; change the caption files",
    "color_aug random_crop face_crop_aug_range custom_attributes": (
        "left out; images keep their colours and are cropped in the middle"
    ),
    "min_bucket_reso max_bucket_reso bucket_reso_steps resize_interpolation": (
        "sizes follow resolution: the same area, in steps of 64"
    ),
    "in_json dataset_class metadata_file": "captions come from .txt, metadata.csv or metadata.jsonl in the folder",
    "debug_dataset": "see python -m trainer lint DIR",
    "torch_compile dynamo_backend fused_backward_pass blocks_to_swap cpu_offload_checkpointing deepspeed zero_stage "
    "offload_optimizer_device offload_optimizer_nvme_path offload_param_device offload_param_nvme_path zero3_init_flag "
    "zero3_save_16bit_model fp16_master_weights_and_gradients ddp_timeout ddp_gradient_as_bucket_view ddp_static_graph "
    "multi_gpu gpu_ids num_cpu_threads_per_process tokenizer_cache_dir": "left out; it changes no result",
    "scale_weight_norms": "left out; lower learning_rate or epochs instead",
    "base_weights base_weights_multiplier": "merge these LoRAs into the base model first",
    "network_multiplier": "left out; the LoRA is trained at strength 1",
    "network_train_text_encoder_only": "the UNet is trained too",
    "stop_text_encoder_training": "the text encoder is trained to the end",
    "vae": "the base model's own VAE is used; choose a checkpoint that has this one in it",
    "conditioning_data_dir": "masks lie beside the images (name.mask.png), or in a folder masks below them",
    "validation_split validation_seed validate_every_n_steps validate_every_n_epochs max_validation_steps": (
        "set validation_images (how many) and validation_steps"
    ),
    "lr_scheduler_type lr_scheduler_args lr_decay_steps lr_scheduler_timescale lr_scheduler_min_lr_ratio": (
        "left out; the schedules are constant, linear, cosine, cosine_with_restarts and polynomial"
    ),
    "weighting_scheme logit_mean logit_std mode_scale": "of other model families",
    "metadata_title metadata_author metadata_description metadata_license metadata_tags metadata_usage_hint "
    "metadata_thumbnail metadata_merged_from metadata_trigger_phrase metadata_preprocessor "
    "metadata_is_negative_embedding": "left out; trigger_word is in the file's header",
}
LEFT_OUT = {key: text for keys, text in _GROUPS.items() for key in keys.split()}
"""Option -> why it has no counterpart."""

_TAKEN = (
    "pretrained_model_name_or_path train_data_dir reg_data_dir output_dir output_name network_dim network_alpha "
    "network_module network_args train_batch_size gradient_accumulation_steps max_train_epochs max_train_steps "
    "learning_rate unet_lr text_encoder_lr network_train_unet_only lr_scheduler lr_warmup_steps lr_scheduler_power "
    "lr_scheduler_num_cycles lr_restart_cycles optimizer_type optimizer_args use_8bit_adam use_lion_optimizer "
    "mixed_precision gradient_checkpointing resolution clip_skip v2 v_parameterization zero_terminal_snr min_snr_gamma "
    "noise_offset shuffle_caption keep_tokens caption_dropout_rate caption_prefix caption_extension caption_extention "
    "caption_separator flip_aug seed save_every_n_steps save_model_as use_safetensors sample_prompts "
    "sample_every_n_steps prior_loss_weight network_dropout network_weights dim_from_weights masked_loss alpha_mask "
    "max_grad_norm loss_type huber_c huber_schedule huber_scale enable_bucket bucket_no_upscale dataset_config "
    "dataset_repeats class_tokens model_train_type"
)
TAKEN = tuple(_TAKEN.split())
"""Options that have one."""
