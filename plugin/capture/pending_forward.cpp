#include "plugin/capture/pending_forward.h"

#include <ATen/ATen.h>

namespace moetap::plugin {
namespace {

// About what is held besides tensors and names.
constexpr int64_t kBytesOfARecord = 1024;
constexpr int64_t kBytesOfAValue = 128;

}  // namespace

CustomValue custom_value(const at::Tensor& scalar) {
  if (scalar.scalar_type() == at::kBool) {
    return scalar.item<bool>();
  }
  if (at::isIntegralType(scalar.scalar_type(), /*includeBool=*/false)) {
    return scalar.item<int64_t>();
  }
  return scalar.item<double>();
}

void PendingForward::visit_tensors(PendingReport::Visit visit) {
  visit(text_tokens);
  for (PendingValue& value : values) visit(value.value);
  for (const auto& report : reports) report->visit_tensors(visit);
}

void PendingForward::start_copies() {
  for (const auto& report : reports) report->prepare(*copies);
  visit_tensors([&](at::Tensor& tensor) {
    if (tensor.defined()) tensor = copies->copy(tensor);
  });
  copies->finish_enqueuing();
}

int64_t PendingForward::bytes() {
  // A block has the size of the largest forward so far, whatever this one uses of it.
  int64_t bytes = kBytesOfARecord + copies->host_bytes();
  visit_tensors([&](const at::Tensor& tensor) {
    if (tensor.defined() && !copies->in_host_block(tensor)) bytes += static_cast<int64_t>(tensor.nbytes());
  });
  for (const auto& report : reports) bytes += report->bytes();
  for (const PendingValue& value : values) bytes += kBytesOfAValue + static_cast<int64_t>(value.name.size());
  for (const auto& [place, named] : record.custom) {
    for (const auto& [name, value] : named) bytes += kBytesOfAValue + static_cast<int64_t>(name.size());
  }
  return bytes;
}

ForwardRecord PendingForward::finish() {
  copies->wait();
  ForwardRecord finished = std::move(record);
  if (!samples.empty()) finished.samples.assign(samples.begin(), samples.end());
  for (const auto& value : values) {
    finished.custom[value.place].insert_or_assign(value.name, custom_value(value.value));
  }
  for (const auto& report : reports) report->finish(finished);
  if (text_tokens.defined()) finished.tokens = text_tokens.item<int64_t>();
  values.clear();
  return finished;
}

void PendingForward::recorded(const ForwardRecord& taken) {
  for (const auto& report : reports) report->recorded(taken);
}

}  // namespace moetap::plugin
