/* pick.cpp - the next tokens, chosen on the device: the sampler's chain as a part of MLX's graph, so that the
 * host need not see the logits, nor wait for one token before the next step is on its way.
 *
 * Biases, penalties and grammar masks change single rows. The filters run over all rows together, each with
 * its own numbers: the candidates lie best first, a filter marks what it drops with -infinity, and a draw is
 * the first candidate whose cumulated probability exceeds the row's uniform number. A filter that no row asks
 * for is left out of the graph.
 */
#include <algorithm>
#include <cmath>
#include <limits>

#include "module.hpp"

namespace {

constexpr float NONE = -std::numeric_limits<float>::infinity();
constexpr int BLOCK = 64;

/* One number of each row, (n, 1). */
template <typename F> mx::array column(const lm_pick *how, uint32_t n, F number) {
    std::vector<float> all(n);
    for (uint32_t i = 0; i < n; i++) all[i] = number(how[i]);
    return mx::array(all.data(), {static_cast<int>(n), 1}, mx::float32);
}

template <typename F> bool any(const lm_pick *how, uint32_t n, F wants) {
    return std::any_of(how, how + n, wants);
}

bool greedy(const lm_pick &p) {
    return !(p.temperature > 0) || p.top_k == 1;
}

/* x with everything but the first `keep` columns of each row, or what `keep` marks, at -infinity. */
mx::array only(const mx::array &keep, const mx::array &x, mx::Device where) {
    return mx::where(keep, x, mx::array(NONE), where);
}

mx::array biased(const mx::array &row, const lm_pick &p, mx::Device where) {
    std::vector<int32_t> ids;
    std::vector<float> add;
    for (uint32_t i = 0; i < p.n_biases; i++) {
        if (p.biases[i].id < 0 || p.biases[i].id >= row.shape(0)) continue;
        ids.push_back(p.biases[i].id);
        add.push_back(p.biases[i].add);
    }
    int n = static_cast<int>(ids.size());
    if (n == 0) return row;
    return mx::scatter_add(row, {mx::array(ids.data(), {n}, mx::int32)},
                           mx::array(add.data(), {n, 1}, mx::float32), std::vector<int>{0}, where);
}

/* Each token of the window once: divided (or multiplied, when negative) by the repeat penalty, minus
 * frequency * count and presence. row: (vocabulary). */
mx::array penalised(const mx::array &row, const lm_pick &p, const lm_flight *before, mx::Device where) {
    int n = static_cast<int>(p.n_recent);
    mx::array ids = lm_mlx_tokens(p.recent, p.n_recent, before, where);
    mx::array counts = mx::scatter_add(mx::zeros({row.shape(0)}, mx::float32, where), {ids},
                                       mx::ones({n, 1}, mx::float32, where), std::vector<int>{0}, where);
    mx::array repeat(p.repeat_penalty);
    mx::array x = mx::where(mx::less_equal(row, mx::array(0.0f), where), mx::multiply(row, repeat, where),
                            mx::divide(row, repeat, where), where);
    mx::array less = mx::add(mx::multiply(counts, mx::array(p.frequency_penalty), where),
                             mx::array(p.presence_penalty), where);
    return mx::where(mx::greater(counts, mx::array(0.0f), where), mx::subtract(x, less, where), row, where);
}

mx::array allowed(const mx::array &row, const uint32_t *mask, mx::Device where) {
    int n = row.shape(0), words = (n + 31) / 32;
    mx::array bits =
        mx::right_shift(mx::array(mask, {words, 1}, mx::uint32), mx::arange(0, 32, mx::uint32, where), where);
    bits = mx::reshape(mx::bitwise_and(bits, mx::array(1u), where), {words * 32}, where);
    return only(mx::astype(mx::slice(bits, {0}, {n}, where), mx::bool_, where), row, where);
}

/* The rows that biases, penalties and masks leave, (n, vocabulary). */
mx::array prepared(const mx::array &logits, const lm_pick *how, uint32_t n, const lm_flight *before,
                   mx::Device where) {
    auto penal = [](const lm_pick &p) { return p.n_recent > 0; };
    auto changed = [&](const lm_pick &p) { return p.n_biases > 0 || penal(p) || p.mask; };
    if (!any(how, n, changed)) return logits;
    std::vector<mx::array> rows = mx::split(logits, static_cast<int>(n), 0, where);
    for (uint32_t i = 0; i < n; i++) {
        if (!changed(how[i])) continue;
        mx::array row = mx::reshape(rows[i], {logits.shape(1)}, where);
        if (how[i].n_biases > 0) row = biased(row, how[i], where);
        if (penal(how[i])) row = penalised(row, how[i], before, where);
        if (how[i].mask) row = allowed(row, how[i].mask, where);
        rows[i] = mx::reshape(row, {1, logits.shape(1)}, where);
    }
    return mx::concatenate(rows, 0, where);
}

/* The sum of what stands before each column. */
mx::array before_each(const mx::array &p, mx::Device where) {
    return mx::subtract(mx::cumsum(p, 1, false, true, where), p, where);
}

/* The k best of each row, best first: their numbers and ids, (n, k). */
std::pair<mx::array, mx::array> sorted(const mx::array &x, int k, mx::Device where) {
    mx::array down = mx::negative(x, where), ids = mx::argsort(down, 1, where);
    if (k < x.shape(1)) {
        ids = mx::slice(mx::argpartition(down, k - 1, 1, where), {0, 0}, {x.shape(0), k}, where);
        mx::array order = mx::argsort(mx::take_along_axis(down, ids, 1, where), 1, where);
        ids = mx::take_along_axis(ids, order, 1, where);
    }
    return {mx::take_along_axis(x, ids, 1, where), ids};
}

/* The same without sorting a whole vocabulary: none of the k best lies outside of the k blocks with the
 * largest maxima. */
std::pair<mx::array, mx::array> best_first(const mx::array &x, int k, mx::Device where) {
    int n = x.shape(0), vocab = x.shape(1), n_blocks = (vocab + BLOCK - 1) / BLOCK;
    if (2 * k > n_blocks) return sorted(x, k, where);
    mx::array blocks =
        mx::pad(x, {{0, 0}, {0, n_blocks * BLOCK - vocab}}, mx::array(NONE), "constant", where);
    blocks = mx::reshape(blocks, {n, n_blocks, BLOCK}, where);
    mx::array which = sorted(mx::max(blocks, 2, false, where), k, where).second;
    which = mx::expand_dims(mx::astype(which, mx::int32, where), 2, where);
    mx::array some = mx::reshape(mx::take_along_axis(blocks, which, 1, where), {n, k * BLOCK}, where);
    mx::array place =
        mx::add(mx::multiply(which, mx::array(BLOCK), where), mx::arange(0, BLOCK, mx::int32, where), where);
    auto [numbers, at] = sorted(some, k, where);
    mx::array ids = mx::take_along_axis(mx::reshape(place, {n, k * BLOCK}, where), at, 1, where);
    return {numbers, mx::minimum(ids, mx::array(vocab - 1), where)}; /* padding is chosen where all is NaN */
}

/* Locally typical sampling (arXiv 2202.00666): what surprises nearest to the entropy, until p of the mass is
 * reached. */
mx::array typical(const mx::array &x, const lm_pick *how, uint32_t n, mx::Device where) {
    mx::array p = mx::softmax(x, 1, true, where), possible = mx::greater(p, mx::array(0.0f), where);
    mx::array surprise = mx::negative(mx::log(mx::where(possible, p, mx::array(1.0f), where), where), where);
    mx::array entropy = mx::sum(mx::multiply(p, surprise, where), 1, true, where);
    mx::array far =
        mx::where(possible, mx::abs(mx::subtract(surprise, entropy, where), where), mx::array(-NONE), where);
    mx::array order = mx::argsort(far, 1, where);
    mx::array mass = before_each(mx::take_along_axis(p, order, 1, where), where);
    /* A row without the filter has a share that no sum reaches. */
    mx::array share = column(how, n, [](const lm_pick &q) { return q.typical_p < 1 ? q.typical_p : 2; });
    mx::array keep = mx::less_equal(mass, share, where);
    return only(mx::take_along_axis(keep, mx::argsort(order, 1, where), 1, where), x, where);
}

/* The most probable ones until p of the mass is reached; the first always. */
mx::array nucleus(const mx::array &x, const lm_pick *how, uint32_t n, mx::Device where) {
    mx::array mass = before_each(mx::softmax(x, 1, true, where), where);
    mx::array share = column(how, n, [](const lm_pick &q) { return q.top_p < 1 ? q.top_p : 2; });
    mx::array first = mx::less(mx::arange(0, x.shape(1), mx::int32, where), mx::array(1), where);
    return only(mx::logical_or(first, mx::less(mass, share, where), where), x, where);
}

/* At least min_p times as probable as the best one. */
mx::array at_least(const mx::array &x, const lm_pick *how, uint32_t n, mx::Device where) {
    mx::array distance = column(
        how, n, [](const lm_pick &q) { return q.min_p > 0 ? std::log(std::min(q.min_p, 1.0f)) : NONE; });
    mx::array least = mx::add(mx::max(x, 1, true, where), distance, where);
    return only(mx::greater_equal(x, least, where), x, where);
}

mx::array drawn(const mx::array &logits, const lm_pick *how, uint32_t n, mx::Device where) {
    int vocab = logits.shape(1), most = 1;
    for (uint32_t i = 0; i < n; i++) {
        bool all = !greedy(how[i]) && (how[i].top_k <= 0 || how[i].top_k > vocab);
        most = std::max(most, all ? vocab : greedy(how[i]) ? 1 : how[i].top_k);
    }
    auto [x, ids] = best_first(logits, most, where);
    auto cut = [&](const lm_pick &p) { return p.top_k > 0 && p.top_k < most; };
    if (any(how, n, cut)) {
        mx::array k =
            column(how, n, [&](const lm_pick &p) { return static_cast<float>(cut(p) ? p.top_k : most); });
        x = only(mx::less(mx::arange(0, most, mx::float32, where), k, where), x, where);
    }
    if (any(how, n, [](const lm_pick &p) { return p.typical_p < 1; })) x = typical(x, how, n, where);
    if (any(how, n, [](const lm_pick &p) { return p.top_p < 1; })) x = nucleus(x, how, n, where);
    if (any(how, n, [](const lm_pick &p) { return p.min_p > 0; })) x = at_least(x, how, n, where);
    mx::array heat = column(how, n, [](const lm_pick &p) { return greedy(p) ? 1 : p.temperature; });
    mx::array p = mx::softmax(mx::divide(x, heat, where), 1, true, where);
    mx::array u = column(how, n, [](const lm_pick &q) { return q.uniform; });
    mx::array passed = mx::less_equal(mx::cumsum(p, 1, false, true, where), u, where);
    mx::array at = mx::sum(mx::astype(passed, mx::int32, where), 1, true, where);
    /* Should the sum end a rounding below u: the last possible one. */
    mx::array last =
        mx::max(mx::multiply(mx::astype(mx::greater(p, mx::array(0.0f), where), mx::int32, where),
                             mx::arange(0, most, mx::int32, where), where),
                1, true, where);
    return mx::astype(mx::take_along_axis(ids, mx::minimum(at, last, where), 1, where), mx::int32, where);
}

/* Log probabilities in the model's own distribution. */
void note_logprobs(lm_flight *f, const mx::array &logits, const mx::array &ids, const lm_pick *how,
                   mx::Device where) {
    uint32_t n_top = 0;
    for (uint32_t i = 0; i < f->n_out; i++) {
        f->n_top.push_back(how[i].logprobs ? how[i].n_top : 0);
        n_top = std::max(n_top, f->n_top[i]);
    }
    mx::array sum = mx::logsumexp(logits, 1, true, where);
    auto store = [&](const mx::array &a) { f->results.push_back(mx::contiguous(a, false, where)); };
    store(mx::subtract(mx::take_along_axis(logits, ids, 1, where), sum, where));
    if (!n_top) return;
    f->top_room = std::min(n_top, static_cast<uint32_t>(logits.shape(1)));
    auto [x, best] = best_first(logits, static_cast<int>(f->top_room), where);
    store(mx::subtract(x, sum, where));
    store(mx::astype(best, mx::int32, where));
}

} // namespace

mx::array lm_mlx_tokens(const int32_t *tokens, uint32_t n, const lm_flight *before, mx::Device where) {
    bool later = std::any_of(tokens, tokens + n, [](int32_t t) { return t < 0; });
    mx::array known(tokens, {static_cast<int>(n)}, mx::int32);
    if (!later) return known;
    if (!before) throw std::invalid_argument("a token of a step before that is not there");
    std::vector<int32_t> from(n);
    bool same = n == before->n_out;
    for (uint32_t i = 0; i < n; i++) {
        int32_t k = LM_FROM_BEFORE(tokens[i]); /* its own inverse */
        if (tokens[i] < 0 && static_cast<uint32_t>(k) >= before->n_out)
            throw std::invalid_argument("a token of a row that the step before did not choose");
        from[i] = tokens[i] < 0 ? k : static_cast<int32_t>(before->n_out + i);
        same = same && tokens[i] < 0 && k == static_cast<int32_t>(i);
    }
    mx::array ids = mx::reshape(before->results.at(lm_flight::IDS), {static_cast<int>(before->n_out)}, where);
    if (same) return ids;
    return mx::take(mx::concatenate({ids, known}, 0, where),
                    mx::array(from.data(), {static_cast<int>(n)}, mx::int32), 0, where);
}

/* Adds the choice to the graph: f->results in the order of lm_flight's names. */
void lm_mlx_choose(lm_flight *f, const lm_pick *how, const lm_flight *before) {
    mx::Device where = f->dev->where;
    if (lm_mlx_follows()) { /* rank 0 has chosen */
        f->results = {
            lm_mlx_ids_of_all(mx::zeros({static_cast<int>(f->n_out), 1}, mx::int32, where), *f->logits)};
        f->logits.reset();
        return;
    }
    mx::array raw = *f->logits, logits = prepared(raw, how, f->n_out, before, where);
    mx::array ids = mx::astype(mx::argmax(logits, 1, true, where), mx::int32, where);
    if (any(how, f->n_out, [](const lm_pick &p) { return !greedy(p); })) {
        std::vector<uint8_t> flags;
        for (uint32_t i = 0; i < f->n_out; i++) flags.push_back(greedy(how[i]));
        mx::array fixed = mx::array(flags.data(), {static_cast<int>(f->n_out), 1}, mx::bool_);
        ids = mx::where(fixed, ids, drawn(logits, how, f->n_out, where), where);
    }
    f->results = {lm_mlx_ids_of_all(mx::contiguous(ids, false, where), raw),
                  mx::contiguous(mx::max(logits, 1, true, where), false, where)};
    if (any(how, f->n_out, [](const lm_pick &p) { return p.logprobs; }))
        note_logprobs(f, raw, ids, how, where);
    f->logits.reset();
}
