/* flight.cpp - steps that the device computes while the host does something else. */
#include <memory>

#include "module.hpp"

namespace {

/* A number that is there when the step is done. To hold keys themselves would make MLX copy them in the next
 * step, which otherwise writes in place. */
mx::array marker(const lm_step *s) {
    const lm_slice &slice = s->slices.back();
    int at = static_cast<int>(slice.seq->len);
    mx::array number =
        mx::slice(slice.seq->keys.back().codes, {0, 0, at, 0}, {1, 1, at + 1, 1}, s->dev->where);
    return mx::add(mx::astype(number, mx::float32, s->dev->where), mx::array(0.0f), s->dev->where);
}

void fill(const lm_flight *f, lm_picked *out) {
    const int32_t *ids = f->results[lm_flight::IDS].data<int32_t>();
    const float *best = f->results[lm_flight::BEST].data<float>();
    for (uint32_t i = 0; i < f->n_out; i++) {
        out[i] = {};
        out[i].id = ids[i];
        out[i].best = best[i];
        if (f->n_top.empty()) continue;
        out[i].logprob = f->results[lm_flight::LOGPROB].data<float>()[i];
        out[i].n_top = std::min(f->n_top[i], f->top_room);
        if (!out[i].n_top) continue;
        out[i].top_logprobs = f->results[lm_flight::TOP_LOGPROBS].data<float>() + i * f->top_room;
        out[i].top_ids = f->results[lm_flight::TOP_IDS].data<int32_t>() + i * f->top_room;
    }
}

} // namespace

std::vector<mx::array> lm_mlx_written(const lm_step *s) {
    std::vector<mx::array> all;
    for (const lm_slice &slice : s->slices) lm_mlx_seq_arrays(slice.seq, all);
    all.insert(all.end(), s->sent.begin(), s->sent.end());
    return all;
}

void lm_mlx_compute_all(lm_device *dev, std::vector<mx::array> &wanted) {
    dev->n_waits++;
    mx::eval(wanted);
}

lm_status lm_mlx_launch(lm_step *s, const lm_tensor *logits, uint32_t n_out, const lm_pick *how,
                        lm_flight **out, lm_err *err) {
    *out = nullptr;
    std::unique_ptr<lm_flight> f;
    bool begun = false;
    lm_status st = s->status;
    if (st != LM_OK) lm_fail(err, st, "%s", s->err.text);
    if (st == LM_OK)
        st = lm_mlx_guard(err, [&] {
            f = std::make_unique<lm_flight>();
            f->dev = s->dev;
            f->fate = s->fate;
            f->n_out = n_out;
            if (n_out) f->logits = mx::astype(logits->a, mx::float32, s->dev->where);
            if (!n_out) f->results = {marker(s)};
            if (n_out && how) lm_mlx_choose(f.get(), how, s->before);
            std::vector<mx::array> wanted = lm_mlx_written(s);
            if (f->logits) wanted.push_back(*f->logits);
            wanted.insert(wanted.end(), f->results.begin(), f->results.end());
            begun = true;
            mx::async_eval(std::move(wanted));
        });
    if (st != LM_OK && begun) s->fate->lost = err->text;
    lm_mlx_leave(s, st == LM_OK);
    if (st == LM_OK) *out = f.release();
    return st;
}

lm_status lm_mlx_pick(lm_flight *f, const lm_pick *how, lm_err *err) {
    if (!f->logits) return lm_fail(err, LM_INVALID, "nothing to choose from, or chosen already");
    return lm_mlx_guard(err, [&] {
        lm_mlx_choose(f, how, nullptr);
        mx::async_eval(f->results);
    });
}

lm_status lm_mlx_wait(lm_flight *f, lm_picked *out, lm_err *err) {
    if (f->logits) return lm_fail(err, LM_INVALID, "nothing has been chosen yet");
    const std::string *lost = f->fate->why_lost();
    if (lost) return lm_fail(err, LM_INTERNAL, "%s", lost->c_str());
    lm_status st = lm_mlx_guard(err, [&] {
        lm_mlx_compute_all(f->dev, f->results);
        if (f->n_out) fill(f, out);
    });
    if (st != LM_OK) f->fate->lost = err->text;
    f->fate->earlier.reset(); /* known to be good, or this one says what happened */
    return st;
}

void lm_mlx_flight_free(lm_flight *f) {
    if (!f) return;
    lm_err ignored;
    (void)lm_mlx_guard(&ignored, [&] { delete f; });
}

uint64_t lm_mlx_n_waits(const lm_device *dev) {
    return dev->n_waits;
}
