#include "plugin/capture/router_checks.h"

namespace moetap::plugin {

RouterChecks::RouterChecks(size_t num_hooks, int64_t check_every) : check_every_(check_every), states_(num_hooks) {}

bool RouterChecks::begin_call(int64_t hook) {
  State& of = state(hook);
  const int64_t call = of.calls.fetch_add(1, std::memory_order_relaxed);
  const int64_t verdicts = of.verdicts.load(std::memory_order_relaxed);
  if (verdicts < kFirstCalls) return true;
  if (verdicts < kMostFirstCalls && of.tokens.load(std::memory_order_relaxed) < kFirstTokens) return true;
  return check_every_ > 0 && call % check_every_ == 0;
}

void RouterChecks::came_back(int64_t hook, int64_t num_tokens, const analysis::RouterVerdict& verdict) {
  if (num_tokens == 0) return;
  State& of = state(hook);
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [column, reason] : verdict) {
      if (findings_.contains({hook, column})) continue;
      const bool stops_hook = column == analysis::kIdsColumn && stop(hook);
      findings_.emplace(std::pair{hook, column}, Finding{reason, stops_hook});
      of.withheld.fetch_or(column, std::memory_order_relaxed);
    }
  }
  of.tokens.fetch_add(num_tokens, std::memory_order_relaxed);
  of.verdicts.fetch_add(1, std::memory_order_relaxed);
}

std::string RouterChecks::reason(int64_t hook) const {
  if (withheld(hook) == 0) return "";
  const std::lock_guard lock(mutex_);
  const auto first = findings_.lower_bound({hook, analysis::RouterColumn{}});
  return std::string(analysis::column_name(first->first.second)) + " do not fit: " + first->second.reason;
}

std::vector<UnverifiedColumn> RouterChecks::untold() const {
  std::vector<UnverifiedColumn> columns;
  const std::lock_guard lock(mutex_);
  for (const auto& [place, finding] : findings_) {
    if (finding.told) continue;
    // The ids first: they are why all of the hook is left out.
    const auto where = place.second == analysis::kIdsColumn ? columns.begin() : columns.end();
    columns.insert(where, {place.first, place.second, finding.reason, finding.stops_hook});
  }
  return columns;
}

void RouterChecks::told(const std::vector<UnverifiedColumn>& columns) {
  if (columns.empty()) return;
  const std::lock_guard lock(mutex_);
  for (const UnverifiedColumn& column : columns) findings_.at({column.hook, column.column}).told = true;
}

}  // namespace moetap::plugin
