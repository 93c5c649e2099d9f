#include "cli/commands/run_inputs.h"

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include "cli/inputs/input_file.h"
#include "cli/terminal/command_error.h"
#include "cli/terminal/interrupt.h"
#include "cli/terminal/progress.h"
#include "plugin/formats/safetensors.h"
#include "plugin/process/error_text.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

std::optional<at::Tensor> first_tensor(const c10::IValue& value) {
  if (value.isTensor()) {
    return value.toTensor().defined() ? std::optional(value.toTensor()) : std::nullopt;
  }
  const auto first_of = [](const auto& values) -> std::optional<at::Tensor> {
    for (const c10::IValue& element : values) {
      if (auto tensor = first_tensor(element)) {
        return tensor;
      }
    }
    return std::nullopt;
  };
  if (value.isTuple()) {
    return first_of(value.toTupleRef().elements());
  }
  if (value.isList()) {
    return first_of(value.toList());
  }
  if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) {
      if (auto tensor = first_tensor(entry.value())) {
        return tensor;
      }
    }
  }
  if (value.isObject()) {
    return first_of(value.toObjectRef().slots());
  }
  return std::nullopt;
}

void save_output(const fs::path& folder, int64_t index, const c10::IValue& output, const std::string& input_file) {
  const auto tensor = first_tensor(output);
  if (!tensor) {
    throw CommandError(fmt::format("{}: the model's output holds no tensor; leave out --save-outputs", input_file));
  }
  fs::create_directories(folder);
  plugin::write_safetensors((folder / fmt::format("{:06}.safetensors", index)).string(), {{{"output", *tensor}}, {}});
}

/// The forward of one file. Its random numbers depend on its number alone: a run that is resumed draws what an
/// undisturbed one does, and a forward can be repeated by itself.
c10::IValue forward(const RunInputs& inputs, size_t number) {
  const std::string& file = inputs.files[number];
  torch::jit::Method method = inputs.method;
  auto stack = read_input_file(file, method.function().getSchema(), inputs.device);
  at::manual_seed(inputs.seed + number);
  try {
    // As Python calls a method: `operator()` would refuse what Python lets pass, such as None in a tuple of tensors.
    method.run(stack);
    return stack.back();
  } catch (const std::exception& error) {
    throw CommandError(
        fmt::format("{}: the model's {} failed on it: {}", file, method.name(), plugin::one_line(error)));
  }
}

}  // namespace

Outcome run_inputs(Session& session, const RunInputs& inputs, const HeldNotices& notices) {
  const auto& files = inputs.files;
  const at::NoGradGuard no_grad;
  const InterruptGuard interrupt;
  Progress progress("forwards", static_cast<int64_t>(files.size() - inputs.first));
  Outcome outcome;
  for (size_t i = inputs.first; i < files.size(); ++i) {
    const std::string& file = files[i];
    if (interrupt.requested()) {
      outcome.interrupted = true;
      outcome.error = "interrupted";
      break;
    }
    try {
      const c10::IValue output = forward(inputs, i);
      if (inputs.outputs) {
        save_output(*inputs.outputs, static_cast<int64_t>(i), output, file);
      }
    } catch (const std::exception& error) {
      outcome.error = plugin::one_line(error);
      break;
    }
    if (session.counters().failed_hooks >= inputs.num_hooks) {
      // Further forwards would record nothing.
      outcome.error =
          fmt::format("{}: every hook has stopped; the first: {}", file, notices.first_that_begins("hook \""));
      break;
    }
    ++outcome.num_done;
    progress.advance();
    if (auto error = session.write_error()) {
      outcome.error = std::move(error);
      break;
    }
  }
  return outcome;
}

}  // namespace moetap::cli
