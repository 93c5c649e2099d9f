#include "plugin/verify/twin_run.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/runtime/profiling_graph_executor_impl.h>
#include <torch/library.h>

#include <mutex>

#include "hooks/probe.h"
#include "plugin/process/error_text.h"

namespace moetap::plugin {
namespace {

/// The forward that is running. Its forks run on other threads.
struct Running {
  std::mutex mutex;
  const Overrides* overrides = nullptr;
  TwinRun* run = nullptr;
};

Running& running() {
  static Running state;
  return state;
}

at::Tensor probe(const at::Tensor& value, int64_t id) {
  Running& state = running();
  const std::lock_guard lock(state.mutex);
  if (state.run == nullptr) return value;
  if (state.run->seen.contains(id)) return value;
  state.run->seen[id] = value.detach().clone();
  const auto instead = state.overrides->find(id);
  return instead != state.overrides->end() ? instead->second.clone() : value;
}

void collect_tensors(const c10::IValue& value, std::vector<at::Tensor>& tensors) {
  const auto collect = [&](const auto& values) {
    for (const c10::IValue& element : values) collect_tensors(element, tensors);
  };
  if (value.isTensor()) {
    if (value.toTensor().defined()) tensors.push_back(value.toTensor());
  } else if (value.isTuple()) {
    collect(value.toTupleRef().elements());
  } else if (value.isList()) {
    collect(value.toList());
  } else if (value.isObject()) {
    collect(value.toObjectRef().slots());
  } else if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) collect_tensors(entry.value(), tensors);
  }
}

}  // namespace

void register_probe_operator() {
  static const auto* library = [] {
    auto* fragment = new torch::Library(torch::Library::FRAGMENT, "moetap", std::nullopt, __FILE__, __LINE__);
    fragment->def(torch::schema(hooks::kProbeSchema, c10::AliasAnalysisKind::FROM_SCHEMA));
    fragment->impl("probe", torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, TORCH_FN(probe)));
    return fragment;
  }();
  (void)library;
}

namespace {

TwinRun run_once(const torch::jit::Method& method, const std::vector<c10::IValue>& arguments, uint64_t seed,
                 const Overrides& overrides, bool optimise) {
  TwinRun run;
  const at::NoGradGuard no_grad;
  const torch::jit::GraphOptimizerEnabledGuard optimiser(optimise);
  Running& state = running();
  const auto set = [&](TwinRun* to) {
    const std::lock_guard lock(state.mutex);
    state.overrides = &overrides;
    state.run = to;
  };
  try {
    std::vector<c10::IValue> stack;
    for (const c10::IValue& argument : arguments) stack.push_back(argument.deepcopy());
    at::manual_seed(seed);
    set(&run);
    torch::jit::Method(method).run(stack);
    collect_tensors(stack.back(), run.outputs);
    for (at::Tensor& tensor : run.outputs) tensor = tensor.detach().clone();
    if (!run.outputs.empty()) run.output = run.outputs.front();
  } catch (const std::exception& error) {
    run.error = one_line(error);
  }
  set(nullptr);
  return run;
}

}  // namespace

TwinRun run_twin(const torch::jit::Method& method, const std::vector<c10::IValue>& arguments, uint64_t seed,
                 const Overrides& overrides) {
  // Optimising takes longer than a few forwards. Some models cannot do without.
  TwinRun run = run_once(method, arguments, seed, overrides, /*optimise=*/false);
  return run.ran() ? run : run_once(method, arguments, seed, overrides, /*optimise=*/true);
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  if (a.numel() == 0) return true;
  const auto bytes = [](const at::Tensor& tensor) { return tensor.contiguous().reshape({-1}).view(at::kByte); };
  return bytes(a).equal(bytes(b));
}

bool almost_equal(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return false;
  if (a.numel() == 0 || !a.is_floating_point()) return a.equal(b);
  const bool is_low = a.element_size() < 4;
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  const double scale = at::maximum(x.abs(), y.abs()).nan_to_num(0, 0, 0).max().item<double>();
  const double tolerance = rounding_of_sums(is_low) * scale;
  return at::isclose(x, y, /*rtol=*/0, /*atol=*/tolerance, /*equal_nan=*/true).all().item<bool>();
}

}  // namespace moetap::plugin
