/* world.cpp - several processes over MLX's own distributed engine (ring, MPI, JACCL, NCCL).
 *
 * One group for the whole process: MLX keeps it until the program ends. Its operations run on a stream of
 * their own in the order in which they are handed over, so that every rank must record the same ones in the
 * same order; each depends on the one before through the activation.
 */
#include "module.hpp"

namespace {

std::optional<mx::distributed::Group> &world() {
    static std::optional<mx::distributed::Group> group;
    return group;
}

} // namespace

bool lm_mlx_follows() {
    return world() && world()->rank() > 0;
}

mx::array lm_mlx_ids_of_all(const mx::array &ids, const mx::array &after) {
    if (!world()) return ids;
    return mx::distributed::all_sum(mx::depends({ids}, {after})[0], world());
}

lm_status lm_mlx_join(const char *kind, uint32_t *rank, uint32_t *size, lm_err *err) {
    return lm_mlx_guard(err, [&] {
        if (!mx::distributed::is_available(kind))
            throw std::runtime_error(std::string("this build of MLX has no distributed backend ") + kind);
        world() = mx::distributed::init(true, kind);
        *rank = static_cast<uint32_t>(world()->rank());
        *size = static_cast<uint32_t>(world()->size());
    });
}

lm_tensor *lm_mlx_all_sum(lm_step *s, lm_tensor *x) {
    return lm_mlx_op(s, [&] { return mx::distributed::all_sum(x->a, world()); });
}

lm_tensor *lm_mlx_send(lm_step *s, lm_tensor *x, uint32_t to) {
    return lm_mlx_op(s, [&] {
        /* The ranks may hold weights of different types: f32 loses nothing of any. */
        mx::array wide = mx::contiguous(mx::astype(x->a, mx::float32, s->dev->where), false, s->dev->where);
        mx::array sent = mx::distributed::send(wide, static_cast<int>(to), world());
        s->sent.push_back(sent);
        return sent;
    });
}

lm_tensor *lm_mlx_receive(lm_step *s, uint32_t n_rows, uint32_t width, uint32_t from) {
    return lm_mlx_op(s, [&] {
        mx::array got = mx::distributed::recv({static_cast<int>(n_rows), static_cast<int>(width)},
                                              mx::float32, static_cast<int>(from), world());
        return mx::astype(got, s->dev->dtype.value_or(mx::float32), s->dev->where);
    });
}
