"""Every part on its own: read traces, extract, fit, steer, save. Run after `steerkit recipe run backtracking`:

python examples/quickstart.py runs/backtracking
"""

import sys
from pathlib import Path

import steerkit as sk

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/backtracking")
models = sk.load_models(
    {
        "base": {"weights": "pocket:base", "id_map": {"reasoning": {4: 251, 5: 251}}},  # as the recipe has it
        "reasoning": "pocket:reasoning",
    },
    writer="reasoning",
)
traces = sk.read_rows(run / "traces.jsonl", sk.Trace)
spans = sk.read_rows(run / "spans.jsonl", sk.Span)
extractor = sk.get("extractors", "offset-window")(windows=[(-13, -8)])
dom = sk.get("fitters", "dom")(label="backtracking", window=(-13, -8))

# The base model reads the reasoning model's traces; one forward serves every layer.
statistics = sk.extract(models["base"], models.items("base", traces, spans), extractor)
vector = sk.fit(dom, statistics, source="base")
print(vector)

# Steer the reasoning model with it: a context manager around HF's own generate.
lm = models["reasoning"]
inputs = lm.tokenizer.apply_chat_template(
    [{"role": "user", "content": traces[0].prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=True
)
with sk.steer(lm, vector, strength=45, layer=1) as steering:
    out = lm.model.generate(**inputs, max_new_tokens=120, do_sample=False)
print(lm.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :]))
print(f"{steering.steered} positions steered")

vector.save_pretrained("my-vector")
assert sk.SteeringVector.from_pretrained("my-vector").cosine(vector)[2] > 0.999999
