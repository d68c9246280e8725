"""Every argument of GRPOConfig is honoured, or refused by its name."""

from dataclasses import MISSING, fields

import pytest
import torch
from transformers import TrainingArguments
from trl import GRPOConfig

from mrt.errors import ConfigError
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.training import rollout as rollout_module
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.context import check_context
from mrt.reasoning.training.honoured import REFUSALS, SHAPING, shaped
from tests.mrt.reasoning.training.test_trainer import mrt

pytestmark = pytest.mark.training

# Whose business each argument is, and what of it a rollout or credit of ours could change.
OF_THE_LOOP = {  # transformers' own
    # optimisation and precision
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "weight_decay",
    "adam_beta1", "adam_beta2", "adam_epsilon", "optim_target_modules", "gradient_accumulation_steps", "max_grad_norm",
    "average_tokens_across_devices", "num_train_epochs", "max_steps", "per_device_train_batch_size", "fp16", "tf32",
    "bf16_full_eval", "fp16_full_eval", "activation_checkpointing", "activation_checkpointing_kwargs",
    "gradient_checkpointing_kwargs", "torch_compile", "torch_compile_backend", "torch_compile_mode",
    "liger_kernel_config", "use_cache", "neftune_noise_alpha", "torch_empty_cache_steps",
    "auto_find_batch_size",  # TRL refuses it
    # logs and trackers
    "logging_strategy", "logging_first_step", "log_on_each_node", "include_num_input_tokens_seen", "log_level",
    "log_level_replica", "disable_tqdm", "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id",
    "trackio_static_space_id", "debug", "skip_memory_metrics",
    # evaluation: what concerns predictions and labels finds none, as in TRL
    "eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size", "eval_on_start", "prediction_loss_only",
    "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps", "include_for_metrics",
    "batch_eval_metrics", "label_names", "length_column_name", "load_best_model_at_end", "metric_for_best_model",
    "greater_is_better",
    # saving and the hub
    "output_dir", "save_only_model", "save_strategy", "save_steps", "save_on_each_node", "push_to_hub", "hub_token",
    "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision", "ignore_data_skip",
    # processes and data
    "full_determinism", "seed", "use_cpu", "accelerator_config", "parallelism_config", "dataloader_drop_last",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context", "dataloader_in_order", "ddp_find_unused_parameters", "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend", "ddp_timeout", "fsdp", "fsdp_config", "deepspeed",
    "local_rank",
    # for scripts: no trainer reads them
    "do_train", "do_eval", "do_predict", "resume_from_checkpoint",
}  # fmt: skip
OF_OURS = {  # transformers' too, with a default or a check of ours (mrt.training.mixin)
    "bf16", "gradient_checkpointing", "logging_steps", "logging_nan_inf_filter", "save_total_limit", "data_seed",
    "hub_private_repo", "remove_unused_columns", "restore_callback_states_from_checkpoint", "enable_jit_checkpoint",
}  # fmt: skip
OF_THE_LOSS = {
    "beta", "num_iterations", "epsilon", "delta", "epsilon_high", "sapo_temperature_neg", "sapo_temperature_pos",
    "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg", "importance_sampling_level",
    "mask_truncated_completions", "sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps",
    "top_entropy_quantile", "entropy_coef", "use_adaptive_entropy", "entropy_coef_min", "entropy_coef_max",
    "entropy_coef_delta", "entropy_target", "vllm_importance_sampling_correction", "vllm_importance_sampling_mode",
    "vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min", "vllm_importance_sampling_cap",
    "off_policy_mask_threshold", "use_bias_correction_kl", "router_aux_loss_coef",
}  # fmt: skip
OF_TRLS_TRAINER = {
    "model_init_kwargs", "trust_remote_code", "disable_dropout", "cast_lm_head_to_fp32", "ds3_gather_for_generation",
    "shuffle_dataset", "pad_to_multiple_of", "generation_batch_size", "steps_per_generation",
    "max_tool_calling_iterations",
    "log_completions", "log_multimodal", "num_completions_to_print", "log_unique_prompts",
    "log_completions_hub_repo",
    "use_vllm", "vllm_mode",
}  # fmt: skip
OURS_TOO = {  # read by rollout, probe, judge or credit
    "temperature", "top_p", "top_k", "num_generations", "num_generations_eval", "max_completion_length",
    "reward_weights",
    "scale_rewards", "vllm_max_model_length",
}  # fmt: skip
REFUSED = {
    "min_p": 0.1, "repetition_penalty": 1.2, "generation_kwargs": {"no_repeat_ngram_size": 2},
    "cache_implementation": "static", "use_transformers_continuous_batching": True,
    "transformers_continuous_batching_config": {"max_batch_tokens": 64}, "use_transformers_paged": True,
    "vllm_structured_outputs_regex": "a+", "multi_objective_aggregation": "normalize_then_sum",
    "chat_template_kwargs": {"enable_thinking": False}, "loss_type": "luspo", "label_smoothing_factor": 0.1,
    "train_sampling_strategy": "group_by_length",
}  # fmt: skip
OF_A_SERVER = {
    "vllm_tensor_parallel_size": 2, "vllm_gpu_memory_utilization": 0.8, "vllm_model_impl": "transformers",
    "vllm_enable_sleep_mode": True,
}  # fmt: skip
OF_A_CLIENT = {
    "vllm_server_base_url": "http://node:8000", "vllm_server_host": "node", "vllm_server_port": 8001,
    "vllm_server_timeout": 10.0, "vllm_group_port": 51217,
}  # fmt: skip


def test_every_argument_of_trl_is_accounted_for():
    """A new release brings a new argument: say here whose business it is."""
    all_of_them = {one.name for one in fields(GRPOConfig)}
    refused = set(REFUSED) | set(OF_A_SERVER) | set(OF_A_CLIENT) | {"use_liger_kernel"}
    parts = [OF_THE_LOOP, OF_OURS, OF_THE_LOSS, OF_TRLS_TRAINER, OURS_TOO, refused]
    known = set().union(*parts)
    assert all_of_them - known == set()
    assert known - all_of_them == set()
    assert len(known) == sum(map(len, parts)), "each is one's business alone"
    assert {one.name for one in REFUSALS} == refused
    assert {one.name for one in fields(TrainingArguments)} <= known
    ours = {one.name for one in fields(MRTConfig)}
    assert all_of_them <= ours


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_would_be_ignored_is_refused_by_its_name(tmp_path, name):
    with pytest.raises(ConfigError, match=rf"^{name}=.*would be ignored"):
        MRTConfig(output_dir=str(tmp_path), probe="sampled", use_cpu=True, **{name: REFUSED[name]})


@pytest.mark.parametrize("mode", ["server", "colocate"])
@pytest.mark.parametrize("name", sorted(OF_A_SERVER | OF_A_CLIENT))
def test_what_the_other_mode_of_vllm_reads_is_refused_by_its_name(tmp_path, name, mode):
    value = (OF_A_SERVER | OF_A_CLIENT)[name]
    options = {"use_cpu": True, "use_vllm": True, "vllm_mode": mode, name: value}
    if (name in OF_A_SERVER) == (mode == "server"):
        with pytest.raises(ConfigError, match=rf"^{name}=.*would be ignored with use_vllm=True, vllm_mode='{mode}'"):
            MRTConfig(output_dir=str(tmp_path), **options)
    else:
        assert getattr(MRTConfig(output_dir=str(tmp_path), **options), name) == value
    assert getattr(MRTConfig(output_dir=str(tmp_path), **options | {"use_vllm": False}), name) == value


def test_a_checkpoint_inside_an_update_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"enable_jit_checkpoint .* MRT_STOP_FILE"):
        MRTConfig(output_dir=str(tmp_path), use_cpu=True, enable_jit_checkpoint=True)


@pytest.mark.parametrize("options", [{"rollout": "mixed", "probe": "gold"}, {"thinking_budget": 20, "probe": "gold"}])
def test_forced_answers_know_no_repetition_penalty(tmp_path, options):
    with pytest.raises(ConfigError, match=r"repetition_penalty=1\.2 would be ignored"):
        MRTConfig(output_dir=str(tmp_path), use_cpu=True, repetition_penalty=1.2, **options)


@pytest.mark.parametrize("name", sorted(set(SHAPING) - {"vllm_structured_outputs_regex", "cache_implementation"}))
def test_what_shapes_samples_is_trls_to_draw_where_nothing_is_forced(tmp_path, name):
    args = MRTConfig(output_dir=str(tmp_path), use_cpu=True, probe="gold", **{name: REFUSED[name]})
    assert name in shaped(args)
    neutral = {
        one.name: one.default for one in fields(GRPOConfig) if one.name in SHAPING and one.default is not MISSING
    }
    assert all(neutral[one] == SHAPING[one] for one in neutral)


def test_trl_draws_rows_with_a_repetition_penalty_and_gold_probes_them(tmp_path, monkeypatch):
    seen = []
    original = rollout_module.Rollout._sample_by_trl
    monkeypatch.setattr(rollout_module.Rollout, "_sample_by_trl", lambda *a: (seen.append(1), original(*a))[1])
    trainer = mrt(tmp_path, credit="progress", probe="gold", repetition_penalty=1.3, max_steps=1)
    trainer.train()
    assert seen == [1]
    assert trainer.cost()["probed"] > 0


def test_probes_draw_with_the_trainers_temperature_and_top_p(tmp_path):
    trainer = mrt(tmp_path, probe="sampled", temperature=0.7, top_p=0.9, top_k=5)
    assert trainer.rollout.plan.probe.sampling == Sampling(0.7, 0.9, 5)


def test_a_trace_is_probed_at_six_boundaries_unless_told_otherwise(tmp_path):
    def most(**options):
        schedule = MRTConfig(output_dir=str(tmp_path), use_cpu=True, **options).schedule()
        return max(map(len, schedule.choose([40] * 8, torch.Generator().manual_seed(0))))

    assert most(probe="sampled") == 6
    assert most(probe="sampled", probe_boundaries=0) == 41
    assert most(probe="sampled", probe_boundaries=3) == 3
    assert most(probe="gold") == 41
    assert most(probe="sampled", probe_moved=0.3) == 2  # the ends first


def test_gold_and_the_papers_close_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="forced_style='short', or probe='coupled'"):
        MRTConfig(output_dir=str(tmp_path), use_cpu=True, probe="gold", forced_style="paper")


def test_tools_are_refused_where_rows_are_probed(tmp_path):
    from mrt.reasoning.training.honoured import check_tools

    with pytest.raises(ConfigError, match="tools would be ignored"):
        check_tools({"tools": [print]}, "probed")
    check_tools({"tools": [print]}, "plain")
    check_tools({"tools": None}, "probed")


def test_a_context_too_short_for_the_last_probe_is_named_before_anything_runs(tmp_path):
    trainer = mrt(tmp_path, probe="gold")
    trainer.args.use_vllm = True
    fmt = trainer.rollout.fmt
    longest = max(len(one) for one in trainer._tokenize_prompts([row["prompt"] for row in trainer.train_dataset])[0])
    needed = longest + 16 + len(fmt.forced_ids) + fmt.max_answer_tokens
    trainer.args.vllm_max_model_length = needed
    check_context(trainer, fmt)
    trainer.args.vllm_max_model_length = needed - 1
    with pytest.raises(ConfigError, match=f"Cure: vllm_max_model_length={needed} or more"):
        check_context(trainer, fmt)


def test_recomputing_activations_changes_no_update(tmp_path):
    """On by default on a GPU: sampling and probing keep their caches, gradients stay the same."""
    weights = []
    for recompute in (False, True):
        trainer = mrt(tmp_path / str(recompute), probe="gold", gradient_checkpointing=recompute, max_steps=1)
        assert trainer.args.gradient_checkpointing is recompute
        assert trainer.args.bf16 is False  # no GPU here
        torch.manual_seed(0)
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert torch.allclose(*weights, atol=1e-6)
