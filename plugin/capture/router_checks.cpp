#include "plugin/capture/router_checks.h"

namespace moetap::plugin {

RouterChecks::RouterChecks(size_t num_hooks, int64_t check_every) : check_every_(check_every), states_(num_hooks) {}

bool RouterChecks::begin_call(int64_t hook) {
  State& of = state(hook);
  const int64_t call = of.calls.fetch_add(1, std::memory_order_relaxed);
  if (of.verdicts.load(std::memory_order_relaxed) < kFirstCalls) return true;
  return check_every_ > 0 && call % check_every_ == 0;
}

void RouterChecks::came_back(int64_t hook, const analysis::RouterVerdict& verdict) {
  State& of = state(hook);
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [column, reason] : verdict) {
      findings_.try_emplace({hook, column}, Finding{reason});
      of.withheld.fetch_or(column, std::memory_order_relaxed);
    }
  }
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
    columns.insert(where, {place.first, analysis::column_name(place.second), finding.reason});
  }
  return columns;
}

void RouterChecks::told(const std::vector<UnverifiedColumn>& columns) {
  if (columns.empty()) return;
  const std::lock_guard lock(mutex_);
  for (auto& [place, finding] : findings_) {
    for (const UnverifiedColumn& column : columns) {
      if (column.hook == place.first && column.column == analysis::column_name(place.second)) finding.told = true;
    }
  }
}

}  // namespace moetap::plugin
