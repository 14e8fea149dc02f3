/* switchyard inspect MODEL: what a checkpoint is. One plain process; reads no weights. */
#include "launcher/cmd_inspect.h"

#include "launcher/commands.h"
#include "launcher/inspect_report.h"
#include "launcher/output.h"

const char sy_inspect_help[] =
    "Reads config.json (or Mistral's params.json) and the headers of the weight files, no\n"
    "weights. MODEL may also be such a file alone, or a directory without weights; then bytes\n"
    "follow from shapes and the published precision. Bytes per rank are those of the rank's\n"
    "experts, dealt out contiguously or by --placement, and of all other weights, as stored.\n"
    "\n"
    "--json prints one object:\n"
    "  family, hidden, vocab, max_position, tied\n"
    "  eos, bos      ids\n"
    "  eos_token     a text whose id only the tokenizer tells, or null\n"
    "  layers        one object for each run of equal layers: first, last, kind (\"moe\" or\n"
    "                \"dense\"), attention (\"gqa\" or \"mla\"), heads, kv_heads, head_dim,\n"
    "                mla (q_rank, kv_rank, nope, rope, value, norm_eps, or null), qkv_bias,\n"
    "                o_bias, qk_norm, qk_clip, rope_theta, rotary_dim, rope_layout, yarn\n"
    "                (factor, original_positions, beta_fast, beta_slow, truncate,\n"
    "                attention_factor, or null), query_beta, query_positions,\n"
    "                softmax_scale, window (0: none), sinks, width, experts, top_k,\n"
    "                shared_width, norm_eps; of MoE layers clamped, act_alpha, act_limit,\n"
    "                expert_bias, score, router_bias, choice_bias, groups, groups_kept,\n"
    "                group_score, renorm, renorm_eps, routed_scale\n"
    "  mtp_layers    layers behind the last that are not part of the model\n"
    "  dtype         of the weights that are not quantised\n"
    "  quantization  method, text, block_rows, block_cols, group, zero_points, act_order, or\n"
    "                null\n"
    "  parameters    total, active, and one number for each part\n"
    "  source        \"checkpoint\" or \"config\"\n"
    "  files, file_bytes, tensors, tensor_bytes, unlisted_tensors, skipped_tensors,\n"
    "  stored_elements\n"
    "  parts, dtypes    {name: {tensors, bytes}}\n"
    "  kv_bytes_per_token    keys and values, or latents, of all layers in BF16\n"
    "  tokenizer     true if there is a tokenizer file\n"
    "  ranks         bytes of each rank\n"
    "  splits        bytes of the fullest of 2, 4 and 8 ranks: {ranks, bytes}";

sy_status sy_cmd_inspect(const sy_options *options) {
    sy_model_facts *facts = NULL;
    sy_status st = sy_inspect(options->model, options->ranks, options->placement, &facts);
    if (st == SY_OK)
        st = options->json ? sy_inspect_print_json(facts) : sy_inspect_print_text(facts);
    if (st == SY_OK) st = sy_out_flush();
    sy_inspect_free(facts);
    return st;
}
