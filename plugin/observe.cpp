#include "plugin/observe.h"

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "hooks/points/operator_schemas.h"
#include "plugin/operators.h"
#include "plugin/process/error_text.h"
#include "plugin/session/forward_recorder.h"
#include "plugin/session/recording.h"

namespace moetap::plugin {
namespace {

constexpr size_t kNumArguments = 9;
constexpr const char* kMethod = "forward";  // what eager, compiled and exported models run

/// The forwards that are under way on a thread, by the number of their model. There is one for each model at most, and
/// several where a model runs inside another one.
class ThreadForwards {
 public:
  static ThreadForwards& of_this_thread() {
    thread_local ThreadForwards forwards;
    return forwards;
  }

  /// Where one is under way already, it has thrown, or both run at once and their reports cannot be told apart: neither
  /// is recorded.
  void begin(int64_t model, std::unique_ptr<ForwardRecorder> recorder) {
    if (place_of(model) != open_.end()) {
      abort(model);
      recorder.reset();
    }
    open_.emplace_back(model, std::move(recorder));
  }

  /// Null: none is under way, or nobody records it.
  ForwardRecorder* find(int64_t model) const {
    const auto found = place_of(model);
    return found == open_.end() ? nullptr : found->second.get();
  }

  void end(int64_t model) {
    if (ForwardRecorder* recorder = find(model)) recorder->end();
    abort(model);
  }

  /// A recorder that is destroyed without its end counts its forward as aborted.
  void abort(int64_t model) {
    const auto found = place_of(model);
    if (found != open_.end()) open_.erase(found);
  }

 private:
  using Open = std::vector<std::pair<int64_t, std::unique_ptr<ForwardRecorder>>>;

  Open::const_iterator place_of(int64_t model) const {
    return std::find_if(open_.begin(), open_.end(), [&](const auto& open) { return open.first == model; });
  }

  Open open_;
};

/// `given`: bit i says that argument i of the method is the next of `tensors`.
c10::List<std::optional<at::Tensor>> method_arguments(const c10::IValue& tensors, int64_t given) {
  c10::List<std::optional<at::Tensor>> arguments;
  for (const c10::IValue& tensor : tensors.toListRef()) {
    for (; given != 0 && (given & 1) == 0; given >>= 1) arguments.push_back(std::nullopt);
    given >>= 1;
    arguments.push_back(tensor.toTensor());
  }
  return arguments;
}

std::unique_ptr<ForwardRecorder> recorder_for(std::string_view description, const c10::IValue& tensors, int64_t given) {
  auto binding = find_binding(description);
  if (!binding) return nullptr;
  try {
    return std::make_unique<ForwardRecorder>(binding, kMethod, method_arguments(tensors, given));
  } catch (const std::exception& error) {
    if (binding->recording().config().strict) throw;
    binding->recording().notice("a forward was not recorded", one_line(error));
    return nullptr;
  }
}

/// Arguments: see kObserveSchema.
void observe(const c10::OperatorHandle&, torch::jit::Stack* stack) {
  const auto arguments = torch::jit::last(*stack, kNumArguments);
  const int64_t model = arguments[1].toInt() >> hooks::kObservedBits;
  const int64_t number = arguments[1].toInt() & ((int64_t{1} << hooks::kObservedBits) - 1);
  ThreadForwards& forwards = ThreadForwards::of_this_thread();
  const OutsideTheModel outside;
  if (number == hooks::kObservedBegin) {
    forwards.begin(model, recorder_for(arguments[7].toStringView(), arguments[4], arguments[6].toInt()));
  } else if (number == hooks::kObservedEnd) {
    forwards.end(model);
  } else if (number == hooks::kObservedAbort) {
    forwards.abort(model);
  } else if (ForwardRecorder* recorder = forwards.find(model)) {
    recorder->router(
        number - hooks::kObservedHook,
        {tensor_or_none(arguments[2]), tensor_or_none(arguments[3]), tensors_of(arguments[4]), tensors_of(arguments[5]),
         arguments[6].toInt(), arguments[7].toStringView(), tensor_or_none(arguments[8])});
  }
  torch::jit::drop(*stack, kNumArguments);
}

/// While a model is compiled or exported nothing is recorded.
void observe_shapes(const c10::OperatorHandle&, torch::jit::Stack* stack) {
  torch::jit::drop(*stack, kNumArguments);
}

}  // namespace

void define_observe(torch::Library& library) {
  library.def(torch::schema(hooks::kObserveSchema, c10::AliasAnalysisKind::FROM_SCHEMA));
  library.impl("observe", torch::dispatch(c10::DispatchKey::CompositeExplicitAutograd,
                                          torch::CppFunction::makeFromBoxedFunction<&observe>()));
  library.impl("observe",
               torch::dispatch(c10::DispatchKey::Meta, torch::CppFunction::makeFromBoxedFunction<&observe_shapes>()));
  library.impl("observe", torch::dispatch(c10::DispatchKey::Autograd, torch::CppFunction::makeFallthrough()));
}

}  // namespace moetap::plugin
