/* What is refused, by name: values that no family here implements, numbers out of range, shapes
 * that contradict each other. What is absent, null or harmless is not. */
#include "tests/spec_fixture.h"

static void value_that_is_not_implemented_is_refused_by_name(void **state) {
    (void)state;
    static const refusal cases[] = {
        {"{\"model_type\":\"deepseek_v32\"}", NULL,
         "\"deepseek_v32\" is not implemented; implemented are qwen3_moe, mixtral, olmoe, "
         "deepseek_v2, deepseek_v3, kimi_k2, sarvam_mla, sarvam_moe, mistral4, gpt_oss, "
         "glm4_moe, minimax_m2"},
        {"{}", NULL, "model_type \"(none)\" is not implemented"},
        {"{\"architectures\":[\"LlamaForCausalLM\"]}", NULL,
         "architecture \"LlamaForCausalLM\""},
        {QWEN, "architectures=[\"Qwen3MoeForSequenceClassification\"]",
         "architecture \"Qwen3MoeForSequenceClassification\""},
        {"{\"model_type\":\"a\\u001b[0m\"}", NULL, "\"a?[0m\""},
        {"{\"model_type\":\"w\",\"text_config\":{\"model_type\":\"llama\"}}", NULL,
         "wrapper \"w\": config.json: model_type of \"text_config\" \"llama\""},
        {QWEN, "hidden_act=\"gelu\"", "\"hidden_act\" is \"gelu\"; only \"silu\""},
        {QWEN, "rope_scaling={\"rope_type\":\"linear\",\"factor\":4}", "\"linear\""},
        {QWEN, "rope_parameters={\"rope_type\":\"llama3\"}", "\"llama3\""},
        {QWEN, "rope_parameters={\"full_attention\":{\"rope_type\":\"dynamic\"}}",
         "\"dynamic\""},
        {QWEN, "rope_parameters={\"full_attention\":null}", "\"full_attention\" is null"},
        {GPT_OSS,
         "rope_parameters={\"full_attention\":{\"rope_theta\":10000},\"sliding_attention\":{"
         "\"rope_theta\":5}}",
         "\"full_attention\" and \"sliding_attention\" differ"},
        {QWEN, "partial_rotary_factor=0.5", "\"partial_rotary_factor\" is 0.5"},
        {QWEN, "rope_parameters={\"partial_rotary_factor\":0.25}", "is 0.25"},
        {QWEN, "rope_parameters={\"llama_4_scaling_beta\":0.1}", "\"llama_4_scaling_beta\""},
        {DEEPSEEK_V3, "rope_scaling.llama_4_scaling_beta=0.1", "\"llama_4_scaling_beta\""},
        {MISTRAL4, "rope_parameters.rope_type=\"default\"", "with YaRN only"},
        {OLMOE, "sliding_window=511", "\"sliding_window\" is 511"},
        {DEEPSEEK_V3, "sliding_window=100", "\"sliding_window\" is 100"},
        {GLM,
         "layer_types=[\"full_attention\",\"full_attention\",\"full_attention\","
         "\"sliding_attention\"]",
         "\"layer_types\"[3] is \"sliding_attention\""},
        {GPT_OSS, "layer_types=[\"chunked_attention\",\"a\",\"b\",\"c\"]",
         "\"layer_types\"[0] is \"chunked_attention\""},
        {MIXTRAL, "attention_bias=true", "\"attention_bias\" is set"},
        {MINIMAX, "attention_bias=true", "\"attention_bias\" is set"},
        {DEEPSEEK_V3, "attention_bias=true", "\"attention_bias\" is set"},
        {SARVAM_MOE, "use_bias=true", "\"use_bias\" is set"},
        {QWEN, "swiglu_limit=7.0", "\"swiglu_limit\" is set"},
        {DEEPSEEK_V3, "swiglu_limit=10", "\"swiglu_limit\" is set"},
        {GPT_OSS, "swiglu_limits=[7]", "\"swiglu_limits\" is set"},
        {QWEN, "mlp_bias=true", "\"mlp_bias\" is set"},
        {DEEPSEEK_V3, "index_topk=2048", "\"index_topk\" is set"},
        {QWEN, "final_logit_softcapping=30.0", "\"final_logit_softcapping\" is set"},
        {GLM, "mlp_layer_types=[\"dense\"]", "\"mlp_layer_types\" is set"},
        {DEEPSEEK_V3, "scoring_func=\"softmax\"",
         "\"scoring_func\" is \"softmax\"; only \"sigmoid\""},
        {DEEPSEEK_V3, "scoring_func=\"sqrtsoftplus\"", "\"sqrtsoftplus\""},
        {DEEPSEEK_V3, "topk_method=\"greedy\"",
         "\"topk_method\" is \"greedy\"; only \"noaux_tc\""},
        {DEEPSEEK_V2, "scoring_func=\"sigmoid\"", "\"scoring_func\" is \"sigmoid\""},
        {DEEPSEEK_V2, "topk_method=\"noaux_tc\"",
         "\"topk_method\" is \"noaux_tc\"; only \"greedy\" and \"group_limited_greedy\""},
        {DEEPSEEK_V2, "norm_topk_prob=true", "\"norm_topk_prob\" is true"},
        {MISTRAL4, "scoring_func=\"sigmoid\"", "\"scoring_func\" is \"sigmoid\""},
        {GLM, "scoring_func=\"softmax\"", "\"scoring_func\" is \"softmax\""},
        {SARVAM_MOE, "score_function=\"softmax\"", "\"score_function\" is \"softmax\""},
        {MINIMAX, "scoring_func=\"softmax\"", "\"scoring_func\" is \"softmax\""},
        {MINIMAX, "attn_type_list=[1,1,0,1]", "\"attn_type_list\"[2] is 0"},
        {MINIMAX, "use_qk_norm=false", "\"use_qk_norm\" is false"},
        {MINIMAX, "qk_norm_type=\"per_head\"", "\"qk_norm_type\" is \"per_head\""},
        {MINIMAX, "shared_intermediate_size=8", "\"shared_intermediate_size\" is 8"},
        {DEEPSEEK_V3, "num_key_value_heads=2", "\"num_key_value_heads\" is 2"},
        {PARAMS, "kv_lora_rank", "without \"kv_lora_rank\""},
        {PARAMS, "yarn.apply_scale=true", "\"apply_scale\" is true"},
        {PARAMS, "yarn.apply_scale", "or absent"},
        {PARAMS, "yarn.gamma=1", "\"yarn\": \"gamma\" is not supported"},
        {PARAMS, "sliding_window=[null,4096]", "\"sliding_window\" is set"},
        {PARAMS, "sliding_window=64", "\"sliding_window\" is set"},
        {PARAMS, "use_biases=true", "\"use_biases\" is set"},
        {PARAMS, "activation=\"gelu\"", "\"activation\" is \"gelu\""},
        {PARAMS, "moe.route_every_n=2", "\"route_every_n\" is 2"},
        {PARAMS, "quantization={\"qformat_weight\":\"int4\"}",
         "\"qformat_weight\" is \"int4\""},
        {QWEN, "mlp_only_layers=[0,1,2,3];intermediate_size=8", "no layer has experts"},
        {DEEPSEEK_V3, "first_k_dense_replace=4", "no layer has experts"}};
    expect_refused(cases, COUNT(cases), SY_ERR_UNSUPPORTED);
}

static void malformed_number_is_refused(void **state) {
    (void)state;
    static const refusal cases[] = {
        {"{\"model_type\":7}", NULL, "\"model_type\": expected a string"},
        {"{\"model_type\":\"qwen3_moe\"}", NULL, "expected \"hidden_size\", found none"},
        {"{\"dim\":16,\"n_layers\":2}", NULL, "expected \"vocab_size\", found none"},
        {QWEN, "architectures=[7]", "\"architectures\"[0]: expected a string"},
        {QWEN, "architectures=\"x\"", "expected an array"},
        {QWEN, "hidden_size=-16", "\"hidden_size\": expected 1 to"},
        {QWEN, "hidden_size=262145", "\"hidden_size\": expected 1 to 262144"},
        {QWEN, "num_hidden_layers=1025", "expected 1 to 1024, found 1025"},
        {QWEN, "max_position_embeddings", "expected \"max_position_embeddings\""},
        {QWEN, "rms_norm_eps=0", "\"rms_norm_eps\" from"},
        {QWEN, "rms_norm_eps", "\"rms_norm_eps\" from"},
        {QWEN, "head_dim=5", "even width of heads"},
        {QWEN, "head_dim=0", "\"head_dim\": expected 1 to"},
        {QWEN, "num_experts=true", "\"num_experts\": expected a whole number, found true"},
        {QWEN, "num_experts=8.5", "expected a whole number, found real"},
        {QWEN, "num_experts", "expected \"n_routed_experts\", \"num_experts\" or"},
        {QWEN, "num_experts=65536", "\"num_experts\": expected 1 to 65535"},
        {QWEN, "num_experts=100;num_experts_per_tok=65",
         "\"num_experts_per_tok\": expected 1 to 64"},
        {QWEN, "num_experts_per_tok=9", "at most 8, the number of experts, found 9"},
        {QWEN, "rope_theta", "expected \"rope_theta\", found none"},
        {QWEN, "rope_theta=-5", "found -5"},
        {QWEN, "rope_theta=0", "from 1 to 1e30, found 0"},
        {QWEN, "rope_theta=0.5", "from 1 to 1e30, found 0.5"},
        {QWEN, "rope_theta=1e31", "from 1 to 1e30, found 1e+31"},
        {QWEN, "rope_theta=\"1\"", "expected a number"},
        {QWEN, "rope_scaling=[]", "\"rope_scaling\": expected an object"},
        {QWEN, "layer_types=[\"full_attention\"]", "expected 4 entries, found 1"},
        {QWEN, "layer_types={}", "expected an array"},
        {QWEN, "layer_types=[1,2,3,4]", "[0]: expected a string, found integer"},
        {QWEN, "mlp_only_layers=[4]", "expected 0 to 3, found 4"},
        {QWEN, "mlp_only_layers=[-1]", "expected 0 to 3, found -1"},
        {QWEN, "mlp_only_layers=[\"1\"]", "expected a whole number, found string"},
        {QWEN, "mlp_only_layers=[1]", "expected \"intermediate_size\", found none"},
        {QWEN, "decoder_sparse_step=0", "\"decoder_sparse_step\": expected 1"},
        {QWEN, "norm_topk_prob=1", "expected true or false, found integer"},
        {QWEN, "tie_word_embeddings=\"no\"", "expected true or false, found string"},
        {QWEN, "eos_token_id=100", "0 to 99, found 100"},
        {QWEN, "eos_token_id=[1,-1]", "0 to 99, found -1"},
        {QWEN, "eos_token_id=\"</s>\"", "\"eos_token_id\": expected a whole number"},
        {QWEN, "bos_token_id=100", "\"bos_token_id\": expected 0 to 99"},
        {MIXTRAL, "sliding_window=0", "\"sliding_window\": expected 1"},
        {OLMOE, "clip_qkv=0", "\"clip_qkv\" from"},
        {OLMOE, "clip_qkv=-2", "\"clip_qkv\" from"},
        {GPT_OSS, "sliding_window", "expected \"sliding_window\", found none"},
        {GPT_OSS, "swiglu_limit=-7", "\"swiglu_limit\" from 0.001"},
        {GPT_OSS, "swiglu_alpha=0", "\"swiglu_alpha\" from 0.001"},
        {GLM, "routed_scaling_factor=0", "\"routed_scaling_factor\" from"},
        {GLM, "routed_scaling_factor=1e300", "\"routed_scaling_factor\" from"},
        {GLM, "first_k_dense_replace", "expected \"first_k_dense_replace\", found none"},
        {GLM, "first_k_dense_replace=5", "\"first_k_dense_replace\": expected 0 to 4"},
        {GLM, "moe_layer_freq=0", "\"moe_layer_freq\": expected 1 or more"},
        {GLM, "num_nextn_predict_layers=-1", "\"num_nextn_predict_layers\": expected 0"},
        {GLM, "n_shared_experts=65535;moe_intermediate_size=4194304", "values together"},
        {GLM, "partial_rotary_factor=0.3", "even rotary width from 2 to the head's 4, found 1"},
        {GLM, "partial_rotary_factor=1.5", "at most 1, found 1.5"},
        {MINIMAX, "rotary_dim=6", "even rotary width from 2 to the head's 4, found 6"},
        {MINIMAX, "attn_type_list=[1,1]", "expected an array of 4 entries"},
        {MINIMAX, "attn_type_list=[1,1,1,\"1\"]", "[3]: expected a whole number"},
        {DEEPSEEK_V3, "kv_lora_rank", "expected \"kv_lora_rank\", found none"},
        {DEEPSEEK_V3, "kv_lora_rank=0", "\"kv_lora_rank\": expected 1 to"},
        {DEEPSEEK_V3, "qk_rope_head_dim=3", "expected even widths"},
        {DEEPSEEK_V3, "qk_nope_head_dim=5", "expected even widths"},
        {DEEPSEEK_V3, "q_lora_rank=-1", "\"q_lora_rank\": expected 0 to"},
        {DEEPSEEK_V3, "num_attention_heads=16384;v_head_dim=4096", "values together"},
        {DEEPSEEK_V3, "num_attention_heads=16384;kv_lora_rank=262144", "values together"},
        {DEEPSEEK_V3, "rope_interleave=1", "expected true or false"},
        {PARAMS, "n_heads=0", "\"n_heads\": expected 1 to"},
        {PARAMS, "moe", "\"moe\": expected an object, found none"},
        {PARAMS, "moe=[]", "\"moe\": expected an object, found array"},
        {PARAMS, "yarn=4", "\"yarn\": expected an object, found integer"},
        {PARAMS, "yarn.factor", "expected \"factor\" and"},
        {PARAMS, "yarn.beta=0", "expected a \"beta\" from"},
        {PARAMS, "moe.num_experts_per_tok=9", "at most 8, the number of experts, found 9"},
        {PARAMS, "moe.num_expert_groups=3", "3 equal groups"},
        {PARAMS, "norm_eps", "\"norm_eps\" from"},
        {PARAMS, "rope_theta", "expected \"rope_theta\""},
        {PARAMS, "max_seq_len=0", "expected 1 or more positions"},
        {PARAMS, "llama_4_scaling.beta=-1", "\"beta\" from 0"},
        {PARAMS, "llama_4_scaling.original_max_position_embeddings=0", "expected 1 to"}};
    expect_refused(cases, COUNT(cases), SY_ERR_FORMAT);
}

static void contradiction_is_refused(void **state) {
    (void)state;
    static const refusal cases[] = {
        {QWEN, "architectures=[\"MixtralForCausalLM\"]", "names MixtralForCausalLM"},
        {QWEN, "num_local_experts=9", "\"num_experts\" is 8 and \"num_local_experts\" is 9"},
        {GLM, "num_experts=9", "\"n_routed_experts\" is 8 and \"num_experts\" is 9"},
        {GPT_OSS, "experts_per_token=3",
         "\"num_experts_per_tok\" is 2 and \"experts_per_token\" is 3"},
        {SARVAM_MOE, "n_shared_experts=2",
         "\"n_shared_experts\" is 2 and \"num_shared_experts\" is 1"},
        {GLM, "num_nextn_predict_layers=1;num_mtp_layers=2",
         "is 1 and \"num_mtp_layers\" is 2"},
        {QWEN, "rope_parameters={\"rope_theta\":20000}", "expected equal values"},
        {QWEN, "rope_scaling={\"type\":\"yarn\",\"rope_type\":\"default\",\"factor\":2}",
         "\"rope_type\" and \"type\" differ"},
        {QWEN,
         "rope_scaling={\"type\":\"default\"};rope_parameters={\"rope_type\":\"yarn\","
         "\"factor\":2}",
         "both given and differ"},
        {DEEPSEEK_V3, "rope_parameters={\"rope_type\":\"yarn\",\"factor\":8}",
         "both given and differ"},
        {QWEN, "num_attention_heads=3;head_dim=4",
         "\"num_attention_heads\" (3) to be a multiple"},
        {QWEN, "num_attention_heads=6", "\"hidden_size\" (16) to be a multiple"},
        {QWEN, "num_attention_heads=16384;head_dim=4096", "values together"},
        {MINIMAX, "partial_rotary_factor=1", "\"rotary_dim\" is 2, but"},
        {MISTRAL4, "rope_parameters.partial_rotary_factor=0.8",
         "\"qk_rope_head_dim\" is 4 of 10"},
        {SARVAM_MLA, "rope_scaling", "expected \"rope_scaling\" or \"rope_parameters\""},
        {PARAMS, "n_kv_heads=2", "expected 4 \"n_kv_heads\""},
        {PARAMS, "head_dim=8", "a \"head_dim\" of 10, found 4 and 8"},
        {DEEPSEEK_V3, "n_group=3", "8 experts to fall into 3 equal groups of 2 or more"},
        {DEEPSEEK_V3, "n_group=8", "8 equal groups of 2 or more"},
        {DEEPSEEK_V3, "topk_group=5", "expected 1 to 4 groups to be kept, found 5"},
        {DEEPSEEK_V3, "topk_group", "expected \"topk_group\", found none"},
        {DEEPSEEK_V3, "topk_group=1;num_experts_per_tok=3",
         "expected at least 3 experts, those of a token, in the 1 groups of 2"},
        {DEEPSEEK_V2, "topk_method=\"group_limited_greedy\";n_group=16;topk_group=8",
         "16 equal groups of 1 or more"},
        {QWEN,
         "hidden_size=262144;num_hidden_layers=1024;num_experts=65535;"
         "moe_intermediate_size=4194304;head_dim=2",
         "at most 2^48 parameters"},
        {PARAMS, "dim=262144;n_layers=1024;moe.num_experts=65535;moe.expert_hidden_dim=4194304",
         "at most 2^48 parameters"}};
    expect_refused(cases, COUNT(cases), SY_ERR_FORMAT);
}

static void yarn_out_of_range_is_refused(void **state) {
    (void)state;
    static const refusal cases[] = {
        {DEEPSEEK_V3, "rope_scaling.factor=0.5", "\"factor\" from 1 to 1e+06, found 0.5"},
        {DEEPSEEK_V3, "rope_scaling.factor=\"4\"", "\"factor\": expected a number"},
        {DEEPSEEK_V3, "rope_scaling.factor;rope_scaling.original_max_position_embeddings=1024",
         "factor from 1 to 1e6, found 0.5"},
        {DEEPSEEK_V3, "rope_scaling.original_max_position_embeddings=0",
         "\"original_max_position_embeddings\" from 1"},
        {DEEPSEEK_V3, "rope_scaling.beta_fast=-1", "\"beta_fast\" from"},
        {DEEPSEEK_V3, "rope_scaling.beta_fast=1;rope_scaling.beta_slow=2",
         "a fast one not below it, up to 1e6; found 2 and 1"},
        {DEEPSEEK_V3, "rope_scaling.mscale=-1", "\"mscale\" from 0"},
        {DEEPSEEK_V3, "rope_scaling.mscale_all_dim=1e4", "\"mscale_all_dim\" from 0 to 1000"},
        {DEEPSEEK_V3, "rope_scaling.attention_factor=0", "\"attention_factor\" from"},
        {DEEPSEEK_V3, "rope_scaling.truncate=0", "expected true or false"},
        {DEEPSEEK_V3, "rope_theta=1.5", "a \"rope_theta\" from 2, found 1.5"}};
    expect_refused(cases, COUNT(cases), SY_ERR_FORMAT);
}

static void config_that_is_no_object_is_refused(void **state) {
    (void)state;
    static const char *const texts[] = {"[]", "7", "null", "\"x\""};
    for (size_t i = 0; i < COUNT(texts); i++) {
        sy_model_spec *spec = NULL;
        assert_int_equal(parse(texts[i], &spec), SY_ERR_FORMAT);
        assert_null(spec);
    }
}

static void null_and_harmless_values_count_as_absent(void **state) {
    (void)state;
    static const struct {
        const char *base, *changes;
    } cases[] = {
        {QWEN, "head_dim=null;rope_scaling=null;sliding_window=null;mlp_only_layers=null;"
               "layer_types=null;quantization_config=null;eos_token_id=null;bos_token_id=null;"
               "hidden_act=null;unknown={\"x\":[1]};swiglu_limit=null;attention_bias=null"},
        {QWEN, "use_sliding_window=true;sliding_window=null"},
        {QWEN, "use_sliding_window=false;sliding_window=100"},
        {OLMOE, "use_sliding_window=false;sliding_window=100"},
        {MIXTRAL, "sliding_window=512"}, /* no position reaches its end */
        {MIXTRAL, "router_jitter_noise=0.1;attention_dropout=0.5"},
        {QWEN, "rope_scaling={};rope_parameters={\"rope_type\":\"default\"}"},
        {QWEN, "rope_parameters={\"full_attention\":{\"rope_type\":\"default\"}}"},
        {QWEN, "rope_parameters={\"rope_theta\":10000,\"partial_rotary_factor\":1}"},
        {QWEN, "architectures=[\"remote.Qwen3MoeForCausalLM\"]"},
        {QWEN, "architectures=[]"},
        {QWEN, "num_local_experts=8.0;big=1e30"},
        {OLMOE, "clip_qkv=null;attention_bias=false"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        sy_model_spec *spec = accepted(cases[i].base, cases[i].changes);
        sy_model_spec *plain = accepted(cases[i].base, NULL);
        same_layers(spec, plain);
        assert_int_equal(spec->layer[3].attn.window, 0);
        assert_int_equal(spec->n_eos, 0);
        assert_int_equal(spec->bos, -1);
        sy_spec_destroy(spec);
        sy_spec_destroy(plain);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(value_that_is_not_implemented_is_refused_by_name),
        cmocka_unit_test(malformed_number_is_refused),
        cmocka_unit_test(contradiction_is_refused),
        cmocka_unit_test(yarn_out_of_range_is_refused),
        cmocka_unit_test(config_that_is_no_object_is_refused),
        cmocka_unit_test(null_and_harmless_values_count_as_absent)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
