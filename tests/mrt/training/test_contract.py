"""Every name of transformers, accelerate and TRL that the trainers lean on, so that a new release fails here first.

Private methods are overridden and attributes of the loop are read; a signature or a line that moved shows as the name
of what moved, not as a run that goes wrong.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import transformers
import trl
from accelerate import data_loader
from transformers import Trainer, TrainerState, TrainingArguments, trainer_utils
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.base_trainer import _BaseTrainer
from trl.trainer.utils import RepeatSampler

from mrt.reasoning.training.config import MRTConfig
from mrt.trainer import TrialConfig, TrialTrainer
from mrt.training.mixin import TrialMixin
from mrt.training.saving import LOOP, PLAIN, SavingMixin
from tests.support import ROOT


def text(thing: Any) -> str:
    """Source with every run of blanks as one blank."""
    return re.sub(r"\s+", " ", inspect.getsource(thing))


def assert_in_order(thing: Any, *lines: str) -> None:
    source, at = text(thing), 0
    for line in lines:
        found = source.find(line, at)
        assert found >= 0, f"{thing.__qualname__}: {line!r} is not there, or not where it was"
        at = found + len(line)


SIGNATURES = {
    Trainer: {
        "train": ["resume_from_checkpoint", "trial", "ignore_keys_for_eval"],
        "training_step": ["model", "inputs", "num_items_in_batch"],
        "compute_loss": ["model", "inputs", "return_outputs", "num_items_in_batch"],
        "log": ["logs", "start_time"],
        "create_optimizer": ["model"],
        "_clip_grad_norm": ["model"],
        "_get_output_dir": ["trial"],
        "_save_checkpoint": ["model", "trial"],
        "_save": ["output_dir", "state_dict"],
        "_save_rng_state": ["output_dir"],
        "_load_rng_state": ["checkpoint"],
        "_save_optimizer_and_scheduler": ["output_dir"],
        "_load_optimizer_and_scheduler": ["checkpoint"],
        "_save_scaler": ["output_dir"],
        "_load_scaler": ["checkpoint"],
        "_finalize_training": ["trial", "num_train_samples", "start_time"],
        "_push_from_checkpoint": ["checkpoint_folder"],
        "push_to_hub": ["commit_message", "blocking", "token", "revision", "private", "kwargs"],
        "save_model": ["output_dir", "_internal_call"],
        "create_model_card": [
            *("language", "license", "tags", "model_name", "finetuned_from", "tasks", "dataset_tags", "dataset"),
            "dataset_args",
        ],
        "is_world_process_zero": [],
    },
    GRPOTrainer: {
        "_generate_and_score_completions": ["inputs"],
        "_calculate_rewards": ["inputs", "prompts", "completions", "completion_ids_list"],
        "_compute_loss": ["model", "inputs"],
        "_get_per_token_logps_and_entropies": [
            *("model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"),
            *("compute_entropy", "compute_aux_loss", "pixel_values", "image_grid_thw", "num_images"),
            *("pixel_attention_mask", "spatial_shapes", "num_tiles", "image_sizes", "token_type_ids"),
            *("mm_token_type_ids", "image_position_ids"),
        ],
        "_generate_single_turn": ["prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"],
        "_tokenize_prompts": ["prompts"],
        "_get_train_sampler": ["dataset"],
        "_prepare_inputs": ["generation_batch"],
        "training_step": ["model", "inputs", "num_items_in_batch"],
        "log": ["logs", "start_time"],
        "_save_checkpoint": ["model", "trial"],
        "_load_optimizer_and_scheduler": ["checkpoint"],
    },
    SFTTrainer: {"log": ["logs", "start_time"], "_save_checkpoint": ["model", "trial"]},
    _BaseTrainer: {"_send_telemetry": [], "create_model_card": ["model_name", "dataset_name", "tags"]},
}


@pytest.mark.parametrize(
    ("owner", "method"), [(owner, method) for owner, methods in SIGNATURES.items() for method in methods]
)
def test_signatures(owner: type, method: str) -> None:
    parameters = list(inspect.signature(getattr(owner, method)).parameters)[1:]
    assert parameters == SIGNATURES[owner][method]


def test_every_override_of_ours_is_pinned_above() -> None:
    """A method that overrides one of transformers has to stand in the list, or here with its reason."""
    elsewhere = {"_run_epoch": "by its call, below", "__init__": "by its arguments, below"}
    for ours in (SavingMixin, TrialMixin, TrialTrainer):
        overridden = {name for name in vars(ours) if inspect.isfunction(vars(ours)[name]) and hasattr(Trainer, name)}
        assert overridden - set(SIGNATURES[Trainer]) - set(elsewhere) == set(), ours.__name__


def test_the_outer_loop() -> None:
    loop = Trainer._inner_training_loop
    sets = [f"self.{name} =" for name in LOOP]
    for line in sets:
        assert line in text(loop), f"{line} is no longer set by the loop: a resume would lose it"
    assert_in_order(
        loop, "self._prepare_for_training(", "self._tr_loss =", "self._run_epoch( model=model, epoch=epoch,"
    )
    assert_in_order(loop, "train_dataloader=train_dataloader,", "return self._finalize_training(")
    assert_in_order(
        Trainer._prepare_for_training,
        "self.create_optimizer()",
        "self.accelerator.prepare(",
        "self.create_scheduler(",
        "self._load_optimizer_and_scheduler(resume_from_checkpoint)",
        "self._load_scaler(resume_from_checkpoint)",
    )


def test_an_epoch_restores_random_states_when_the_first_batch_is_there() -> None:
    assert_in_order(
        Trainer._run_epoch,
        "skip_first_batches(train_dataloader, steps_trained_in_current_epoch)",
        "self._load_rng_state(resume_from_checkpoint)",  # at the border of an epoch: before the iterator is made
        "train_dataloader.set_epoch(epoch)",
        "epoch_iterator = iter(train_dataloader)",
        "self.get_batch_samples(",
        "self._load_rng_state(resume_from_checkpoint)",  # inside one: behind the batches that were skipped
        "_set_sync_gradients(do_sync_step)",
        "self.training_step(model, inputs, num_items_in_batch)",
        "self._tr_loss += tr_loss_step",
        "self._clip_grad_norm(model)",
        "self.optimizer.step()",
        "self.lr_scheduler.step()",
        "model.zero_grad()",
        "self.state.global_step += 1",
        "self._maybe_log_save_evaluate(",
    )
    assert_in_order(
        Trainer._maybe_log_save_evaluate, "self.log(logs, start_time)", "self._save_checkpoint(model, trial)"
    )


def test_the_epochs_already_done_are_counted_in_steps() -> None:
    assert_in_order(
        Trainer._init_training_state,
        "epochs_trained = int(self.state.global_step // num_update_steps_per_epoch)",
        "self.state.global_step % num_update_steps_per_epoch",
    )


def test_a_save() -> None:
    assert_in_order(
        Trainer._save_checkpoint,
        'f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"',
        "self._get_output_dir(trial=trial)",
        "self.save_model(output_dir, _internal_call=True)",
        "self.state.best_model_checkpoint = best_checkpoint_dir",
        "self._save_optimizer_and_scheduler(output_dir)",
        "self._save_scaler(output_dir)",
        "self._save_rng_state(output_dir)",
        "self.state.save_to_json(os.path.join(output_dir, TRAINER_STATE_NAME))",
        "if self.args.push_to_hub:",
        "rotate_checkpoints( output_dir=run_dir,",
    )
    assert (trainer_utils.PREFIX_CHECKPOINT_DIR, transformers.trainer.TRAINER_STATE_NAME) == (
        "checkpoint",
        "trainer_state.json",
    )
    assert transformers.trainer.TRAINING_ARGS_NAME == "training_args.bin"
    assert 'Path(output_dir).glob(f"{checkpoint_prefix}-*")' in text(trainer_utils.sort_checkpoints)
    assert "best_model_checkpoint" in TrainerState.__dataclass_fields__


def test_pickles_are_written_only_where_we_override() -> None:
    """`torch.save` elsewhere in the trainer would slip past us."""
    functions = {name: value for name, value in vars(Trainer).items() if inspect.isfunction(value)}
    saving = {name for name, value in functions.items() if "torch.save(" in text(value)}
    not_ours = {"_push_from_checkpoint", "_tune_save_checkpoint"}  # the hub and Ray Tune: off unless asked for
    assert saving - not_ours == {"_save", "_save_rng_state", "_save_optimizer_and_scheduler", "_save_scaler"}
    assert saving - not_ours <= set(vars(SavingMixin))
    for base in (GRPOTrainer, SFTTrainer, _BaseTrainer):
        assert "torch.save(" not in text(base)


def test_order_of_the_data() -> None:
    sampler = RepeatSampler(list(range(5)), mini_repeat_count=1, seed=3)
    sampler.generator.manual_seed(3)
    assert "torch.randperm(self.num_samples, generator=self.generator)" in text(RepeatSampler.__iter__)
    assert "self.generator.manual_seed(seed)" in text(RepeatSampler.__init__), "epoch 0 is the one that TRL would have"
    assert_in_order(
        data_loader.SeedableRandomSampler.__iter__, "seed = self.epoch + self.initial_seed", "manual_seed(seed)"
    )
    assert "data_seed if data_seed is not None" in text(data_loader.SeedableRandomSampler.__init__)
    assert "SkipBatchSampler(batch_sampler, skip_batches=num_batches)" in text(data_loader.skip_first_batches)
    assert "self.batch_sampler = batch_sampler" in text(data_loader.SkipBatchSampler.__init__)
    assert "self.batch_sampler = batch_sampler" in text(data_loader.BatchSamplerShard.__init__)
    assert "dataloader_config.data_seed = self.args.data_seed" in text(Trainer.create_accelerator_and_postprocess)


def test_state_that_trl_keeps_between_steps() -> None:
    """Whatever attribute changes while GRPO or SFT train has to be carried over a resume, or be known not to matter."""
    known = {
        *PLAIN,
        *("entropy_coef", "_last_world_entropy"),  # TRL saves these two by itself
        "_entropy_window_stats",  # None between updates
        "_current_train_step_time",  # a clock
        "_last_loaded_step",  # vLLM has to be synchronised after a resume: -1 is right
        *("environments", "_batch_environments", "_sync_tool_dicts", "_async_tool_dicts"),  # made anew for every batch
        *("scale_rewards", "_signature_columns"),  # set once
    }
    for base in (GRPOTrainer, SFTTrainer):
        changing = set()
        for name, function in vars(base).items():
            if inspect.isfunction(function) and name != "__init__":
                changing |= set(re.findall(r"self\.(\w+) (?:[-+*/|]?=)(?!=)", text(function)))
        assert changing - known == set(), base.__name__
        assert 'self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}' in text(base.__init__)
    assert_in_order(
        GRPOTrainer._prepare_inputs,
        "generate_every = self.args.steps_per_generation * self.num_iterations",
        "self._step % generate_every == 0 or self._buffered_inputs is None",
        "self._generate_and_score_completions(generation_batch)",
        "shuffle_sequence_dict(generation_batch)",
        "self._buffered_inputs[self._step % self.args.steps_per_generation]",
    )
    assert_in_order(GRPOTrainer.training_step, "super().training_step(", "self._step += 1")


def test_grpo_takes_advantages_per_token() -> None:
    assert "if advantages.dim() == 1: advantages = advantages.unsqueeze(1)" in text(GRPOTrainer._compute_loss)
    source = text(GRPOTrainer)
    for line in ('extra_fields.pop("env_mask", None)', "inp[key] = values[i]", "self.rollout_func("):
        assert line in source, line
    for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "tool_mask"):
        assert f'"{name}"' in text(GRPOTrainer._generate_and_score_completions), name


def test_constructors() -> None:
    wanted = {
        GRPOTrainer: "model reward_funcs args train_dataset processing_class peft_config rollout_func",
        SFTTrainer: "model args train_dataset processing_class peft_config",
        Trainer: "model args train_dataset data_collator",
    }
    for owner, names in wanted.items():
        assert set(names.split()) <= set(inspect.signature(owner.__init__).parameters), owner.__name__
    attributes = "reward_funcs reward_weights num_generations num_iterations max_completion_length use_vllm _tokenizer"
    for name in (*attributes.split(), "ref_model", "log_completions", "_logs"):
        assert f"self.{name} =" in text(GRPOTrainer.__init__), name


def test_arguments_that_we_give_another_default() -> None:
    ours = set(TrialConfig.__dataclass_fields__) - set(TrainingArguments.__dataclass_fields__)
    assert ours == {"max_skipped_steps", "write_trials", "auto_resume", "num_tasks", "group_size", "updates_per_step"}
    for config in (GRPOConfig, SFTConfig):
        assert not {"max_skipped_steps", "write_trials", "auto_resume"} & set(config.__dataclass_fields__)
    assert MRTConfig.__dataclass_fields__["lr_scheduler_type"].default == "constant"


def test_versions_are_those_of_the_project_file() -> None:
    wanted = (ROOT / "pyproject.toml").read_text()
    minor = ".".join(trl.__version__.split(".")[:2])
    assert f"trl>={minor}," in wanted, f"TRL {trl.__version__} is outside the range that this file was read for"
