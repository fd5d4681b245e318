/* How byte-level vocabularies cut text before merging, by the name that llama.cpp gives to the model's way of
 * doing it (tokenizer.ggml.pre). The expressions are those of the models' own tokenizer.json where
 * llama.cpp's table quotes them, and llama.cpp's otherwise. Applying them one after the other to what is left
 * of the text is what a Sequence of Split pre-tokenizers does; digit and GPT-2 splitting, which
 * tokenizer.json also has as types of their own, are written as the expressions that they stand for. Names
 * whose way is not a list of expressions (kimi-k2, afmoe) are left out. */
#include "store/import_private.h"

#define LLAMA3                                                                                               \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+["          \
    "\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define QWEN2                                                                                                \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]"        \
    "*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define GPT4O                                                                                                \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'"      \
    "t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm"        \
    "}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s"          \
    "*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TEKKEN                                                                                               \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\"   \
    "p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p"      \
    "{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define HAN   "[一-龥ࠀ-一가-퟿]+"
#define BLOOM " ?[^(\\s|[.,!?…。，、।۔،])]+"

/* Letters of the scripts that have cases. One line: clang-format cuts it anew each time that it sees it. */
// clang-format off
#define CASED "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
// clang-format on

static const lm_pretokens table[] = {
    {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
     .regexes = {LLAMA3},
     .ignore_merges = true,
     .add_bos = true},
    {.names = {"smaug-bpe", "dbrx", "chatglm-bpe"}, .regexes = {LLAMA3}},
    {.names = {"glm4", "glm5"}, .regexes = {LLAMA3}, .ignore_merges = true},
    {.names = {"qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2"}, .regexes = {QWEN2}, .nfc = true},
    {.names = {"stablelm2"}, .regexes = {QWEN2}, .nfc = true},
    {.names = {"hunyuan", "grok-2", "solar-open"}, .regexes = {QWEN2}},
    {.names = {"qwen35"},
     .regexes = {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "
                 "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
    {.names = {"gpt-4o", "llama4", "kanana2", "minimax-m2"}, .regexes = {GPT4O}},
    {.names = {"tekken"}, .regexes = {TEKKEN}, .ignore_merges = true, .add_bos = true},
    {.names = {"gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4", "trillion", "jais"},
     .regexes = {GPT2}},
    {.names = {"granite-docling", "jina-v2-code"}, .regexes = {GPT2}},
    {.names = {"roberta-bpe"}, .regexes = {GPT2}, .add_bos = true, .add_eos = true},
    {.names = {"mpt", "olmo"}, .regexes = {GPT2}, .nfc = true},
    {.names = {"command-r"}, .regexes = {"\\p{N}", GPT2}, .nfc = true},
    {.names = {"smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"},
     .regexes = {"\\p{N}", GPT2}},
    {.names = {"falcon"}, .regexes = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {.names = {"default"}, .regexes = {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {.names = {"deepseek-llm"},
     .regexes = {"[\\r\\n]", CASED, "\\s?[!-/:-~！-／：-～‘-‟　-。]+", "\\s+$", HAN, "\\p{N}+"}},
    {.names = {"deepseek-coder"}, .regexes = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", HAN, "\\p{N}"}},
    {.names = {"deepseek-v3", "hunyuan-dense", "joyai-llm"},
     .regexes = {"\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
                 "[!\"#$%&'()*+,\\-./"
                 ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
                 "?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
    {.names = {"superbpe"}, .regexes = {"\\p{N}+", "(?=(\\d{3})+(?!\\d))"}},
    {.names = {"bloom", "poro-chat", "gpt3-finnish"}, .regexes = {BLOOM}},
    {.names = {"viking"}, .regexes = {BLOOM, "\\p{N}"}},
    {.names = {"bailingmoe", "bailingmoe2", "llada-moe"},
     .regexes = {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| "
                 "?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {.names = {"seed-coder"},
     .regexes = {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| "
                 "?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
    {.names = {"tiny_aya", "cohere2moe"}, .regexes = {"\\d{1,3}(?=(?:\\d{3})*\\b)", GPT4O}},
};

const lm_pretokens *lm_pretokens_find(lm_str name) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        for (size_t k = 0; k < 8 && table[i].names[k]; k++) {
            if (lm_str_eq(name, lm_str_of(table[i].names[k]))) return &table[i];
        }
    }
    return NULL;
}
