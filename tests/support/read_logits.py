"""Serves two prompts from a bundle and prints the SHA-256 of all logits of prefill, and of each token and its logprob.

python read_logits.py BUNDLE     `CPUID_AS=CPU` disguises this CPU first
"""

import hashlib
import os
import sys

import numpy as np

PROMPTS = [[1, 17, 300, 45, 8, 9, 410, 33], [1, 5, 260]]


def main(bundle):
    if name := os.environ.get("CPUID_AS"):
        import disguise

        disguise.put_on(name)
    import aot

    with aot.load(bundle) as model:
        tokens = np.zeros((2, 8), np.int32)
        for row, ids in enumerate(PROMPTS):
            tokens[row, : len(ids)] = ids
        logits = model.call("prefill", tokens=tokens, lengths=[len(ids) for ids in PROMPTS])["logits"]
        drawn = model.generate(PROMPTS, max_new_tokens=12, eos_token_id=[])
    found = hashlib.sha256(np.ascontiguousarray(logits).tobytes())
    for result in drawn:
        found.update(np.array(result.token_ids, np.int32).tobytes() + np.array(result.logprobs, np.float64).tobytes())
    print(f"{found.hexdigest()} {logits.dtype} {logits.shape}")


if __name__ == "__main__":
    main(sys.argv[1])
