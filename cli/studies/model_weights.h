#pragma once

#include <functional>
#include <map>
#include <string>

#include "analysis/studies/study.h"

namespace moetap::cli {

/// The weights of a TorchScript model's routers and experts, as studies take them. Throws CommandError with one line:
/// no such model, no routers, no parameters (a frozen model's are constants of its graph).
class ModelWeights {
 public:
  explicit ModelWeights(std::string path) : path_(std::move(path)) {}

  /// The routers that discovery finds, by component: for an analysis without a run. Top-k is 0 where the graph does not
  /// fix it; routers whose number of experts it does not fix are left out.
  std::map<std::string, analysis::studies::ComponentShape> shapes() const;

  /// Calls `use` for each router of the shape's layers: [E, hidden], transposed where the model keeps [hidden, E]; and
  /// for the parameters of its experts: those below `experts.N.` beside the router, and slices of those below
  /// `experts.` whose first size is E. As float32. `model`: the place of the model among those given.
  void read(const analysis::studies::ComponentShape& shape, int32_t model,
            const std::function<void(const analysis::studies::WeightMatrix&)>& use) const;

 private:
  std::string path_;
};

}  // namespace moetap::cli
