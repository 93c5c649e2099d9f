#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace moetap::hooks::testing {

/// One call of `moetap::router`. Tensors are copies from the time of the call: later changes by the model do not show.
struct RouterReport {
  int64_t hook = -1;
  at::Tensor logits;  // undefined: not reported
  at::Tensor scores;  // undefined: not reported
  at::Tensor choice;  // undefined: not reported
  at::Tensor input;   // undefined: not reported
  std::string no_input;
  std::vector<at::Tensor> selected;
  std::vector<at::Tensor> weights;
  int64_t expert_dim = 0;
  std::string form;
};

/// One call of `moetap::attention`, the same way. Undefined: none.
struct AttentionReport {
  int64_t hook = -1;
  at::Tensor query, key, mask, probabilities, scores, output;
  std::optional<double> scale;
  bool causal = false;
  int64_t num_heads = 0;
  std::string layout;
  at::Tensor log_sum_exp;
};

/// One call of `moetap::log_in_forward`.
struct LogReport {
  std::string component;
  std::string layer;
  std::string name;
  c10::IValue value;
};

/// What the operators of one forward reported, kept by the handle that `moetap::begin` gave.
struct ForwardReport {
  std::string description;
  std::string method;
  std::vector<at::Tensor> arguments;  // undefined: None was passed
  std::vector<RouterReport> routers;  // in order of their calls
  std::vector<LogReport> logs;
  std::vector<AttentionReport> attentions;
  bool ended = false;
};

/// What the test program's implementation of the `moetap::` operators records, from construction on. One at a time.
class Recording {
 public:
  Recording();
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  std::vector<ForwardReport> forwards() const;  // in order of their begin
  int64_t logs_outside() const;                 // calls of `moetap::log`, which reach no forward
};

}  // namespace moetap::hooks::testing
