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
holds "bytes by shapes" '^weights: 93\.4 GB, by shapes' "$text"
holds "published precision" '^published as: BF16$' "$text"
holds "a rank of four" '^  4 ranks  +[0-9.]+ GB each$' "$text"
holds "layers as one range" '^layers 0-31$' "$text"

text=$("$SWITCHYARD" inspect "$SY_TEST_DATA/configs/gpt-oss-20b-v4.json")
holds "alternating layers" '^layers 0, 2, 4, 6, 8, 10, \.\. \(12 in all\)$' "$text"
holds "window and sinks" 'biases of q k v o, window 128, sinks$' "$text"
holds "YaRN" 'YaRN 32 times 4096 positions, betas 32 and 1, bounds not rounded, cos and sin times 1\.3465736' "$text"
holds "router" '4 per token, softmax over the chosen, bias; clamped at 7, alpha 1\.702$' "$text"
holds "quantised experts" '^published as: MXFP4, one scale for 32 \(mxfp4\), the rest BF16$' "$text"
holds "bytes of MXFP4" '^weights: 13\.8 GB' "$text"

text=$("$SWITCHYARD" inspect "$SY_TEST_DATA/configs/deepseek-v3-v5.json")
holds "latent attention" '128 heads of 128 \+ 64, values of 128, query rank 1536, key-value rank 512, scale 0\.1352337' "$text"
holds "groups" 'sigmoid, bias for the choice, from 4 of 8 groups by their two best, renormalised, times 2\.5; shared width 2048$' "$text"
holds "layers that are left out" '^left out: 1 layer for predicting' "$text"
holds "latent cache" '^KV cache: 70\.3 kB per token' "$text"

json=$("$SWITCHYARD" inspect "$SY_TEST_DATA/configs/mistral-large-3-params.json" --json)
check "exit code for a params.json" 0 $?
holds "latent in JSON" '"kv_rank": 512' "$json"
holds "query temperature" '"query_positions": 8192' "$json"
holds "quantisation" '"method": "compressed-tensors"' "$json"
holds "splits" '"ranks": 8' "$json"

message=$("$SWITCHYARD" inspect /nonexistent/model 2>&1 >/dev/null)
check "exit code for a missing model" 3 $?
holds "the path is named" '/nonexistent/model: No such file' "$message"

scratch=$(mktemp -d) || exit 1
trap 'rm -r "$scratch"' EXIT
echo '{"model_type": "deepseek_v32"}' >"$scratch/config.json"
message=$("$SWITCHYARD" inspect "$scratch" 2>&1 >/dev/null)
check "exit code for an unknown family" 5 $?
holds "families are listed" 'deepseek_v32.*implemented are qwen3_moe, mixtral, olmoe' "$message"
cp "$SY_TEST_DATA/tiny/olmoe/config.json" "$scratch/config.json"
text=$("$SWITCHYARD" inspect "$scratch")
check "exit code without weights" 0 $?
holds "a directory without weights" '^weights: .*, by shapes' "$text"
touch "$scratch/other.safetensors.part"
message=$("$SWITCHYARD" inspect "$scratch" 2>&1 >/dev/null)
check "exit code without the files of a checkpoint" 3 $?
holds "files that were looked for" 'model.safetensors or consolidated.safetensors' "$message"
exit $failed
