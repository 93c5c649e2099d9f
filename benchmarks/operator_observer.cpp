#include "benchmarks/operator_observer.h"

#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "benchmarks/process_usage.h"
#include "tests/support/counting_allocator.h"

namespace moetap::benchmarks {
namespace {

thread_local OperatorCalls seen;

struct CallContext : at::ObserverContext {
  explicit CallContext(std::vector<OperatorCall>& operator_calls) : calls(operator_calls) {}

  std::vector<OperatorCall>& calls;
  // Made in this order: the time sees the operator alone.
  double cpu_began_s = thread_cpu_seconds();
  CountAllocations allocations;
  double began_s = wall_seconds();
};

std::unique_ptr<at::ObserverContext> operator_begins(const at::RecordFunction& function) {
  std::string_view name = function.name();
  constexpr std::string_view kNamespace = "moetap::";
  if (!name.starts_with(kNamespace)) return nullptr;
  name.remove_prefix(kNamespace.size());
  at::enableRecordFunction(false);
  return std::make_unique<CallContext>(name == "router" ? seen.router : name == "begin" ? seen.begin : seen.end);
}

void operator_ends(const at::RecordFunction&, at::ObserverContext* context) {
  if (context == nullptr) return;
  const double ended_s = wall_seconds();
  auto& call = *static_cast<CallContext*>(context);
  const int64_t allocations = call.allocations.number();
  const double cpu_s = thread_cpu_seconds() - call.cpu_began_s;
  call.calls.push_back({ended_s - call.began_s, cpu_s, allocations});
  at::enableRecordFunction(true);
}

}  // namespace

double OperatorCalls::seconds() const {
  double sum = 0;
  for (const auto* calls : {&begin, &router, &end}) {
    for (const OperatorCall& call : *calls) sum += call.seconds;
  }
  return sum;
}

OperatorObserver::OperatorObserver()
    : handle_(at::addThreadLocalCallback(
          at::RecordFunctionCallback(&operator_begins, &operator_ends).scopes({at::RecordScope::FUNCTION}))) {
  take();
}

OperatorObserver::~OperatorObserver() {
  at::removeCallback(handle_);
}

OperatorCalls OperatorObserver::take() {
  return std::exchange(seen, {});
}

}  // namespace moetap::benchmarks
