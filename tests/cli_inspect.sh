#!/usr/bin/env bash
# switchyard inspect: text, JSON, ranks, a config alone, and what it refuses.
set -u
failed=0
check() { # check TITLE EXPECTED FOUND
    if [ "$2" != "$3" ]; then
        echo "$1: expected \"$2\", found \"$3\"" >&2
        failed=1
    fi
}
holds() { # holds TITLE PATTERN TEXT
    if ! grep -qE -- "$2" <<<"$3"; then
        printf '%s: expected a line like "%s", found:\n%s\n' "$1" "$2" "$3" >&2
        failed=1
    fi
}

text=$("$SWITCHYARD" inspect "$SY_TEST_DATA/tiny/qwen3_moe" --ranks 3)
check "exit code" 0 $?
holds "family" '^family: qwen3_moe$' "$text"
holds "dense layer" '^  ffn: dense, width 88$' "$text"
holds "weights" '^weights: 74\.1 kB in 98 tensors, 1 file$' "$text"
check "one line for each rank" 3 "$(grep -cE '^  rank [0-2] ' <<<"$text")"

json=$("$SWITCHYARD" inspect "$SY_TEST_DATA/tiny/qwen3_moe_f32_sharded" --ranks 2 --json)
check "exit code with --json" 0 $?
holds "source" '"source": "checkpoint"' "$json"
holds "files" '"files": 3,' "$json"
holds "parameters" '"total": 37068,' "$json"

text=$("$SWITCHYARD" inspect "$SY_TEST_DATA/configs/mixtral-8x7b-v4.json")
check "exit code for a config" 0 $?
holds "published total" '^parameters: 46\.70 B \(46702792704\)$' "$text"
holds "assumed dtype" '^weights: 93\.4 GB, assuming BF16' "$text"
holds "layers as one range" '^layers 0-31$' "$text"

message=$("$SWITCHYARD" inspect /nonexistent/model 2>&1 >/dev/null)
check "exit code for a missing model" 3 $?
holds "the path is named" '/nonexistent/model: No such file' "$message"

scratch=$(mktemp -d) || exit 1
trap 'rm -r "$scratch"' EXIT
echo '{"model_type": "gpt_oss"}' >"$scratch/config.json"
message=$("$SWITCHYARD" inspect "$scratch" 2>&1 >/dev/null)
check "exit code for an unknown family" 5 $?
holds "families are listed" 'gpt_oss.*implemented are qwen3_moe, mixtral, olmoe' "$message"
cp "$SY_TEST_DATA/tiny/olmoe/config.json" "$scratch/config.json"
message=$("$SWITCHYARD" inspect "$scratch" 2>&1 >/dev/null)
check "exit code without weights" 3 $?
holds "files that were looked for" 'model.safetensors or model.safetensors.index.json' "$message"
exit $failed
