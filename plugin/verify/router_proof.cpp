#include "plugin/verify/router_proof.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <set>

#include "plugin/verify/router_prover.h"

namespace moetap::plugin {

Overrides both(Overrides a, const Overrides& b) {
  a.insert(b.begin(), b.end());
  return a;
}

std::vector<int64_t> row_of(const at::Tensor& ids, int64_t token) {
  const at::Tensor row = ids[token].to(at::kCPU, at::kLong).contiguous();
  return {row.data_ptr<int64_t>(), row.data_ptr<int64_t>() + row.numel()};
}

bool contains(const std::vector<int64_t>& ids, int64_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

RouterProver::RouterProver(const hooks::ProbedRouter& router, const torch::jit::Method& method,
                           const std::vector<c10::IValue>& arguments, uint64_t seed, const TwinRun& base)
    : router_(router), method_(method), arguments_(arguments), seed_(seed), base_(base), twin_(router, base) {
  twin_.check_sources();
}

TwinRouter RouterProver::run_router(const Overrides& overrides) const {
  const TwinRun changed = run(overrides);
  TORCH_CHECK(changed.ran(), "the model failed: ", changed.error);
  return TwinRouter(router_, changed);
}

std::vector<int64_t> RouterProver::some_tokens() const {
  const int64_t count = call().selected.size(0);
  std::set<int64_t> tokens;
  for (const int64_t token : {int64_t{0}, count / 3, count / 2, count - 1}) {
    if (token >= 0 && token < count) tokens.insert(token);
  }
  return {tokens.begin(), tokens.end()};
}

std::vector<int64_t> RouterProver::unselected(int64_t token) const {
  const auto ids = row_of(call().selected, token);
  const at::Tensor finite = call().logits[token].isfinite();
  std::vector<int64_t> experts = row_of(call().logits[token].to(at::kDouble).argsort().unsqueeze(0), 0);
  std::erase_if(experts, [&](int64_t expert) { return contains(ids, expert) || !finite[expert].item<bool>(); });
  return experts;
}

bool ran_in(const hooks::ProbedRouter& router, const TwinRun& run) {
  const auto& values = router.selected.empty() ? router.weights : router.selected;
  return run.ran() && run.output && !values.empty() && run.seen.contains(values[0].reported);
}

std::vector<Check> prove_router(const hooks::ProbedRouter& router, const torch::jit::Method& method,
                                const std::vector<c10::IValue>& arguments, uint64_t seed, const TwinRun& base) {
  static constexpr std::array<Finding (RouterProver::*)() const, kRouterChecks.size()> kMembers = {
      &RouterProver::logits, &RouterProver::margin, &RouterProver::ids, &RouterProver::weights, &RouterProver::factor};
  std::optional<RouterProver> prover;
  return run_checks(kRouterChecks, [&](size_t i) {
    if (!prover) prover.emplace(router, method, arguments, seed, base);
    return ((*prover).*kMembers[i])();
  });
}

}  // namespace moetap::plugin
