#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "hooks/points/hook_point.h"

namespace moetap::plugin {

enum class Verdict { kProven, kRefuted, kNotShown };

const char* to_string(Verdict verdict);

// The kinds of checks: see router_proof.h, attention_proof.h and token_proof.h.
inline constexpr std::array kRouterChecks = {"logits", "margin", "ids", "weights", "factor"};
inline constexpr std::array kTokenChecks = {"samples", "positions", "padding"};
inline constexpr std::array kAttentionChecks = {"rows", "share", "context"};
inline constexpr std::array kAttentionTokenChecks = {"samples", "padding"};

/// What an intervention has shown.
struct Finding {
  Verdict verdict = Verdict::kNotShown;
  std::string why = {};  // of what is not proven
};

Finding proven();
Finding refuted(std::string why);
Finding not_shown(std::string why);

/// What one kind of intervention says of a hook.
struct Check {
  std::string what;
  Verdict verdict = Verdict::kNotShown;
  std::string why = {};  // of what is not proven
};

/// One check for each name, in order: `make` is given its place. Not shown where it throws.
std::vector<Check> run_checks(std::span<const char* const> names, const std::function<Finding(size_t)>& make);

/// What the checks of one hook say.
struct HookProof {
  hooks::HookPoint hook;
  std::vector<Check> checks;

  /// The checks of another forward decide what these left open.
  void add(const std::vector<Check>& others);
  bool is_open(const std::string& what) const;
  template <typename Kinds>
  bool is_open_in(const Kinds& kinds) const {
    return std::any_of(kinds.begin(), kinds.end(), [this](const char* what) { return is_open(what); });
  }

  /// Refuted if any check is; proven if one is and none is refuted.
  Verdict verdict() const;
  /// "proven: logits, ids; not shown: weights: why", "refuted: ids: why; proven: logits".
  std::string line() const;
};

}  // namespace moetap::plugin
