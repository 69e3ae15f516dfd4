"""Stand-ins for vLLM's two runners: base classes, and engines that call them only in the documented order.

A request's next-token distribution is a function of its tokens so far, and its noise of its name and position. The tokens
drawn do not depend on batches, slots, rows or drafts, so both runners must give what a loop over one request gives.
"""

import enum
import sys
import types
from abc import ABC, abstractmethod
from types import SimpleNamespace

import numpy as np

try:
    import torch
except ModuleNotFoundError:  # test_vllm is then skipped, but collected
    pass

VOCABULARY, OPEN, CLOSE, BLANK, EOS = 12, 0, 1, 2, 3
MAX_TOKENS = 64


class Direction(enum.Enum):
    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


class V1Base(ABC):
    """`vllm.v1.sample.logits_processor.LogitsProcessor`."""

    @classmethod
    def validate_params(cls, sampling_params):
        return None

    @abstractmethod
    def __init__(self, vllm_config, device, is_pin_memory): ...

    @abstractmethod
    def apply(self, logits): ...

    @abstractmethod
    def is_argmax_invariant(self): ...

    @abstractmethod
    def update_state(self, batch_update): ...


class V2Base(ABC):
    """`vllm.v1.worker.gpu.sample.logits_processor.LogitsProcessor`."""

    def __init__(self, vllm_config, req_states):
        return None

    @classmethod
    def validate_params(cls, sampling_params):
        return None

    def add_request(self, req_idx, sampling_params):
        return True

    def apply_staged_writes(self):
        return None

    @abstractmethod
    def apply(self, logits, ctx): ...


def install(monkeypatch):
    """Put both base classes where vLLM has them."""
    for path, base in (("vllm.v1.sample", V1Base), ("vllm.v1.worker.gpu.sample", V2Base)):
        parts = f"{path}.logits_processor".split(".")
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[:depth])
            if name not in sys.modules:
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setattr(sys.modules[".".join(parts)], "LogitsProcessor", base, raising=False)


def config(policy, forced=(BLANK, CLOSE), **given):
    tags = SimpleNamespace(
        reasoning_start_token_ids=[OPEN], reasoning_end_token_ids=list(forced), natural_reasoning_end_token_ids=[CLOSE]
    )
    stopping = {"policy": str(policy), **given}
    return SimpleNamespace(
        additional_config={"stopping": stopping}, reasoning_config=tags, scheduler_config=SimpleNamespace()
    )


def params(**extra):
    return SimpleNamespace(extra_args=extra)


def logits_of(ids):
    """Logits of the next token, float32 `[vocabulary]`."""
    logits = 2 * np.random.default_rng([7, *ids]).standard_normal(VOCABULARY)
    logits[[OPEN, BLANK]] = -np.inf  # masked, as a grammar does; a stop may still force them
    logits[EOS] = logits[EOS] + 2 if CLOSE in ids else -np.inf
    logits[CLOSE] = -np.inf if CLOSE in ids else logits[CLOSE] - 2
    return torch.tensor(logits, dtype=torch.float32)


def drawn(logits, name, position):
    """The token of the largest perturbed logit."""
    noise = np.random.default_rng([11, name, position]).gumbel(size=VOCABULARY)
    return int(np.argmax(logits.numpy() + noise))


class V1Engine:
    """A persistent batch without gaps: the last request moves into a freed row, and two rows are sometimes swapped."""

    def __init__(self, processor, seed=0):
        self.processor, self.rng = processor, np.random.default_rng(seed)
        self.batch, self.removed, self.added = [], [], []

    def run(self, prompts, sampling=None, max_running=3):
        waiting, done = list(enumerate(prompts)), {}
        while waiting or self.batch:
            moved = []
            for row in sorted(self.removed, reverse=True):
                last = len(self.batch) - 1
                if row != last:
                    self.batch[row] = self.batch[last]
                    moved.append((last, row, Direction.UNIDIRECTIONAL))
                self.batch.pop()
            if len(self.batch) > 1 and self.rng.random() < 0.3:
                one, other = self.rng.choice(len(self.batch), 2, replace=False).tolist()
                self.batch[one], self.batch[other] = self.batch[other], self.batch[one]
                moved.append((one, other, Direction.SWAP))
            update = SimpleNamespace(batch_size=0, removed=list(self.removed), added=[], moved=moved)
            self.removed = []
            # vLLM fills removed rows with additions first; here additions have a separate step
            if not moved and not update.removed:
                while waiting and len(self.batch) < max_running:
                    name, prompt = waiting.pop(0)
                    request = SimpleNamespace(name=name, prompt=prompt, output=[])
                    self.batch.append(request)
                    wanted = (sampling or {}).get(name, params())
                    type(self.processor).validate_params(wanted)
                    update.added.append((len(self.batch) - 1, wanted, prompt, request.output))
            changed = update.removed or update.added or update.moved
            self.processor.update_state(update if changed else None)
            if not self.batch:
                continue
            logits = torch.stack([logits_of([*r.prompt, *r.output]) for r in self.batch])
            logits = self.processor.apply(logits)
            for row, request in enumerate(self.batch):
                request.output.append(drawn(logits[row], request.name, len(request.output)))
                if request.output[-1] == EOS or len(request.output) == MAX_TOKENS:
                    done[request.name] = list(request.output)
                    self.removed.append(row)
        return [done[name] for name in range(len(prompts))]


class V2Engine:
    """Recycled slots, rows in another order at every step, prompts in two chunks, and drafts that may be rejected."""

    def __init__(self, make, num_slots=3, num_drafts=0, seed=0):
        self.rng, self.num_drafts, self.num_slots = np.random.default_rng(seed), num_drafts, num_slots
        buffer = lambda *shape: SimpleNamespace(gpu=torch.zeros(shape, dtype=torch.int32), np=np.zeros(shape, int))  # noqa: E731
        self.states = SimpleNamespace(
            device="cpu",
            max_num_reqs=num_slots,
            vocab_size=VOCABULARY,
            all_token_ids=buffer(num_slots, 200),
            prompt_len=buffer(num_slots),
            prefill_len=buffer(num_slots),
            total_len=buffer(num_slots),
        )
        self.processor = make(self.states)

    def run(self, prompts, sampling=None):
        waiting, done, running, free = list(enumerate(prompts)), {}, {}, list(range(self.num_slots))
        while waiting or running:
            while waiting and free:
                name, prompt = waiting.pop(0)
                slot = free.pop(int(self.rng.integers(len(free))))
                running[slot] = SimpleNamespace(name=name, ids=list(prompt), length=len(prompt), computed=0)
                wanted = (sampling or {}).get(name, params())
                type(self.processor).validate_params(wanted)
                assert isinstance(self.processor.add_request(slot, wanted), bool)
            for slot, request in running.items():  # staged writes are flushed only now
                self.states.all_token_ids.gpu[slot, : len(request.ids)] = torch.tensor(request.ids, dtype=torch.int32)
                self.states.prompt_len.np[slot] = self.states.prefill_len.np[slot] = request.length
                self.states.total_len.gpu[slot] = len(request.ids)
            self.processor.apply_staged_writes()
            self._step(running, done, free)
        return [done[name] for name in range(len(prompts))]

    def _step(self, running, done, free):
        order, rows = self.rng.permutation(list(running)).tolist(), []
        for slot in order:
            request = running[slot]
            if request.computed == 0 and request.length > 1:  # half a prompt: a row whose token is discarded
                rows.append((slot, 0, request.length // 2 - 1, request.ids[: request.length // 2], None))
                request.computed = request.length // 2
                continue
            request.computed = len(request.ids)
            drafts = self._drafts(request)
            for local in range(len(drafts) + 1):
                ids = [*request.ids, *drafts[:local]]
                rows.append((slot, local, len(ids) - 1, ids, drafts[local] if local < len(drafts) else None))
        as_tensor = lambda column: torch.tensor([row[column] for row in rows], dtype=torch.int32)  # noqa: E731
        ctx = SimpleNamespace(
            expanded_idx_mapping=as_tensor(0),
            idx_mapping=torch.tensor(order, dtype=torch.int32),
            idx_mapping_np=np.array(order),
            expanded_local_pos=as_tensor(1),
            input_ids=torch.tensor([row[3][-1] for row in rows], dtype=torch.int32),
            pos=as_tensor(2),
            seq_lens_upper_bound_np=np.array([len(running[slot].ids) + self.num_drafts for slot in order]),
        )
        logits = self.processor.apply(torch.stack([logits_of(row[3]) for row in rows]), ctx)
        rejected = set()
        for (slot, _, position, ids, draft), row in zip(rows, logits, strict=True):
            if slot in rejected or position + 1 < running[slot].length:
                continue
            request = running[slot]
            token = drawn(row, request.name, len(ids) - request.length)
            request.ids.append(token)
            over = token == EOS or len(request.ids) - request.length == MAX_TOKENS
            if over:
                done[request.name] = request.ids[request.length :]
                del running[slot]
                free.append(slot)
            if over or token != draft:
                rejected.add(slot)

    def _drafts(self, request):
        """Return drafts: two of three times the tokens without a policy, otherwise others."""
        ids, drafts = list(request.ids), []
        for _ in range(self.num_drafts):
            token = drawn(logits_of(ids), request.name, len(ids) - request.length)
            token = token if self.rng.random() < 2 / 3 else int(self.rng.integers(4, VOCABULARY))
            drafts.append(token)
            ids.append(token)
        return drafts
