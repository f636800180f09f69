"""One vLLM start in its own process: `python vllm_job.py JOB.json ANSWER.json`.

`reload` runs the engine and lets it load weights again, each time with an answer after it.
`embed` runs a pooling model and answers with the embeddings of the prompts.
`generate` runs the whole engine and answers with greedy tokens, and the log-probabilities of those
and of the prompts. `load` starts the workers and stops them once the weights are loaded; the probe
tells of those.
"""

from __future__ import annotations

import json
import sys
from typing import Any

PROMPTS = (
    "The quick brown fox jumps over the lazy dog.",
    "def read(path):\n    return open(path).read()\n",
    "0123456789 ABCDEFGHIJ \u00e9\u00e8",
)
NEW_TOKENS = 24


def generate(arguments: dict[str, Any], adapter: str) -> dict[str, Any]:
    from vllm.lora.request import LoRARequest

    from vllm import LLM, SamplingParams

    engine = LLM(**arguments)
    # With an adapter, vLLM on the CPU fails where it is asked for a prompt's log-probabilities: it
    # looks the adapter up by sampled token, and a prompt has more tokens than are sampled.
    of_prompts = None if adapter else 0
    sampling = SamplingParams(
        temperature=0.0,
        max_tokens=NEW_TOKENS,
        ignore_eos=True,
        prompt_logprobs=of_prompts,
        logprobs=0,
    )
    lora = LoRARequest("adapter", 1, adapter) if adapter else None
    outputs = engine.generate(list(PROMPTS), sampling, use_tqdm=False, lora_request=lora)
    return {
        "tokens": [list(output.outputs[0].token_ids) for output in outputs],
        "logprobs": [_logprobs(output.outputs[0]) for output in outputs],
        "prompt_logprobs": [] if adapter else [_prompt_logprobs(output) for output in outputs],
    }


def embed(arguments: dict[str, Any]) -> dict[str, Any]:
    from vllm import LLM

    outputs = LLM(**arguments).embed(list(PROMPTS), use_tqdm=False)
    return {"embeddings": [list(output.outputs.embedding) for output in outputs]}


def reload(arguments: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    engine = LLM(**arguments)
    sampling = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True)
    reloaded = []
    for path in paths:
        engine.collective_rpc("reload_weights", kwargs={"weights_path": path} if path else {})
        engine.reset_prefix_cache()
        outputs = engine.generate(list(PROMPTS), sampling, use_tqdm=False)
        reloaded.append([list(output.outputs[0].token_ids) for output in outputs])
    return {"reloaded": reloaded}


def _logprobs(completion: Any) -> list[float]:
    """The log-probability of each generated token."""
    places = zip(completion.token_ids, completion.logprobs, strict=True)
    return [place[token].logprob for token, place in places]


def _prompt_logprobs(output: Any) -> list[float]:
    """The log-probability of each token of the prompt except the first, which has no token before
    it.
    """
    places = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
    return [place[token].logprob for token, place in places]


def load(arguments: dict[str, Any]) -> dict[str, Any]:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.executor.abstract import Executor

    config = EngineArgs(**arguments).create_engine_config()
    Executor.get_class(config)(config).shutdown()
    return {}


def main() -> None:
    job_path, answer_path = sys.argv[1:]
    with open(job_path, encoding="utf-8") as file:
        job = json.load(file)
    match job["action"]:
        case "generate":
            answer = generate(job["arguments"], job["adapter"])
        case "embed":
            answer = embed(job["arguments"])
        case "reload":
            answer = reload(job["arguments"], job["reload_paths"])
        case _:
            answer = load(job["arguments"])
    with open(answer_path, "w", encoding="utf-8") as file:
        json.dump(answer, file)


if __name__ == "__main__":
    main()
