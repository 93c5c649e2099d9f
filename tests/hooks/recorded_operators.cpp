// An implementation of the operators of hooks/points/operator_schemas.h that keeps what it is given. It stands in for
// the plugin, so that the rewriting is tested alone.
#include "recorded_operators.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <mutex>
#include <stdexcept>

#include "hooks/points/operator_schemas.h"

namespace moetap::hooks::testing {
namespace {

// Forks of one forward report from several threads.
std::mutex mutex;
std::vector<ForwardReport> reports;
int64_t outside = 0;
bool recording = false;

at::Tensor kept(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() && tensor->defined() ? tensor->detach().clone() : at::Tensor();
}

// A handle holds the place of its forward in `reports`, or -1 if nobody records.
at::Tensor begin(std::string_view description, std::string_view method,
                 const c10::List<std::optional<at::Tensor>>& arguments) {
  const std::scoped_lock lock(mutex);
  if (!recording) return at::full({1}, -1, at::kLong);
  ForwardReport report{std::string(description), std::string(method), {}, {}, {}, {}, false};
  for (size_t i = 0; i < arguments.size(); ++i) report.arguments.push_back(kept(arguments.get(i)));
  reports.push_back(std::move(report));
  return at::full({1}, static_cast<int64_t>(reports.size()) - 1, at::kLong);
}

ForwardReport* report_of(const at::Tensor& handle) {
  const auto place = handle.item<int64_t>();
  return place < 0 ? nullptr : &reports.at(static_cast<size_t>(place));
}

void router(const at::Tensor& forward, int64_t hook, const std::optional<at::Tensor>& logits,
            const std::optional<at::Tensor>& scores, at::TensorList selected, at::TensorList weights,
            int64_t expert_dim, std::string_view form, const std::optional<at::Tensor>& choice,
            const std::optional<at::Tensor>& input, std::string_view no_input) {
  RouterReport report{hook, kept(logits), kept(scores), kept(choice),     kept(input), std::string(no_input),
                      {},   {},           expert_dim,   std::string(form)};
  for (const auto& tensor : selected) report.selected.push_back(kept(tensor));
  for (const auto& tensor : weights) report.weights.push_back(kept(tensor));
  const std::scoped_lock lock(mutex);
  if (ForwardReport* own = report_of(forward)) own->routers.push_back(std::move(report));
}

void router_of_one(const at::Tensor& forward, int64_t hook, const std::optional<at::Tensor>& logits,
                   const std::optional<at::Tensor>& scores, const at::Tensor& selected,
                   const std::optional<at::Tensor>& weights, int64_t expert_dim, std::string_view form,
                   const std::optional<at::Tensor>& choice, const std::optional<at::Tensor>& input,
                   std::string_view no_input) {
  router(forward, hook, logits, scores, selected, weights ? at::TensorList(*weights) : at::TensorList(), expert_dim,
         form, choice, input, no_input);
}

void attention(const at::Tensor& forward, int64_t hook, const std::optional<at::Tensor>& query,
               const std::optional<at::Tensor>& key, const std::optional<at::Tensor>& mask,
               const std::optional<at::Tensor>& probabilities, const std::optional<at::Tensor>& scores,
               const std::optional<at::Tensor>& output, std::optional<double> scale, bool causal, int64_t num_heads,
               std::string_view layout, const std::optional<at::Tensor>& log_sum_exp) {
  AttentionReport report{hook,         kept(query), kept(key), kept(mask), kept(probabilities), kept(scores),
                         kept(output), scale,       causal,    num_heads,  std::string(layout), kept(log_sum_exp)};
  const std::scoped_lock lock(mutex);
  if (ForwardReport* own = report_of(forward)) own->attentions.push_back(std::move(report));
}

void log_in_forward(const c10::OperatorHandle&, torch::jit::Stack* stack) {
  const auto arguments = torch::jit::pop(*stack, 5);
  const std::scoped_lock lock(mutex);
  if (ForwardReport* own = report_of(arguments[0].toTensor())) {
    own->logs.push_back(
        {arguments[1].toStringRef(), arguments[2].toStringRef(), arguments[3].toStringRef(), arguments[4]});
  }
}

void log_outside_a_forward(const c10::OperatorHandle&, torch::jit::Stack* stack) {
  torch::jit::drop(*stack, 2);
  const std::scoped_lock lock(mutex);
  ++outside;
}

int64_t end(const at::Tensor& forward) {
  const std::scoped_lock lock(mutex);
  if (ForwardReport* own = report_of(forward)) own->ended = true;
  return 0;
}

void ended(int64_t) {}

template <typename Kernel>
torch::CppFunction for_all(Kernel&& kernel) {
  return torch::dispatch(c10::DispatchKey::CompositeImplicitAutograd, std::forward<Kernel>(kernel));
}

}  // namespace

TORCH_LIBRARY(moetap, library) {
  const auto side_effects = c10::AliasAnalysisKind::CONSERVATIVE;
  const auto as_written = c10::AliasAnalysisKind::FROM_SCHEMA;
  library.def(torch::schema(kBeginSchema, as_written));
  library.def(torch::schema(kRouterSchema, as_written));
  library.def(torch::schema(kRouterOfOneSchema, as_written));
  library.def(torch::schema(kAttentionSchema, as_written));
  library.def(torch::schema(kLogInForwardSchema, as_written));
  library.def(torch::schema(kEndSchema, as_written));
  library.def(torch::schema(kEndedSchema, side_effects));
  library.impl("begin", for_all(TORCH_FN(begin)));
  library.impl("router", for_all(TORCH_FN(router)));
  library.impl("router.one", for_all(TORCH_FN(router_of_one)));
  library.impl("attention", for_all(TORCH_FN(attention)));
  library.impl("log_in_forward", for_all(torch::CppFunction::makeFromBoxedFunction<&log_in_forward>()));
  library.impl("end", for_all(TORCH_FN(end)));
  library.impl("ended", for_all(TORCH_FN(ended)));
  for (const char* schema : kLogSchemas) {
    library.def(torch::schema(schema, side_effects));
    const std::string name(schema, std::string_view(schema).find('('));
    library.impl(name.c_str(), for_all(torch::CppFunction::makeFromBoxedFunction<&log_outside_a_forward>()));
  }
}

Recording::Recording() {
  const std::scoped_lock lock(mutex);
  if (recording) throw std::logic_error("a Recording exists already; only one may exist at a time");
  reports.clear();
  outside = 0;
  recording = true;
}

Recording::~Recording() {
  const std::scoped_lock lock(mutex);
  recording = false;
}

std::vector<ForwardReport> Recording::forwards() const {
  const std::scoped_lock lock(mutex);
  return reports;
}

int64_t Recording::logs_outside() const {
  const std::scoped_lock lock(mutex);
  return outside;
}

}  // namespace moetap::hooks::testing
