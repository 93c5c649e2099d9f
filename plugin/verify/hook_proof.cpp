#include "plugin/verify/hook_proof.h"

#include <fmt/format.h>

#include <algorithm>

#include "plugin/process/error_text.h"

namespace moetap::plugin {

const char* to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::kProven:
      return "proven";
    case Verdict::kRefuted:
      return "refuted";
    case Verdict::kNotShown:
      break;
  }
  return "not shown";
}

Finding proven() {
  return {Verdict::kProven};
}

Finding refuted(std::string why) {
  return {Verdict::kRefuted, std::move(why)};
}

Finding not_shown(std::string why) {
  return {Verdict::kNotShown, std::move(why)};
}

std::vector<Check> run_checks(std::span<const char* const> names, const std::function<Finding(size_t)>& make) {
  std::vector<Check> checks;
  for (size_t i = 0; i < names.size(); ++i) {
    Finding finding;
    try {
      finding = make(i);
    } catch (const std::exception& error) {
      finding = not_shown(one_line(error));
    }
    checks.push_back({names[i], finding.verdict, std::move(finding.why)});
  }
  return checks;
}

void HookProof::add(const std::vector<Check>& others) {
  for (const Check& other : others) {
    const auto known =
        std::find_if(checks.begin(), checks.end(), [&](const Check& check) { return check.what == other.what; });
    if (known == checks.end()) {
      checks.push_back(other);
    } else if (known->verdict == Verdict::kNotShown && other.verdict != Verdict::kNotShown) {
      *known = other;
    }
  }
}

bool HookProof::is_open(const std::string& what) const {
  return std::none_of(checks.begin(), checks.end(),
                      [&](const Check& check) { return check.what == what && check.verdict != Verdict::kNotShown; });
}

Verdict HookProof::verdict() const {
  const auto any = [&](Verdict verdict) {
    return std::any_of(checks.begin(), checks.end(), [&](const Check& check) { return check.verdict == verdict; });
  };
  return any(Verdict::kRefuted) ? Verdict::kRefuted : any(Verdict::kProven) ? Verdict::kProven : Verdict::kNotShown;
}

std::string HookProof::line() const {
  std::string text;
  for (const Verdict verdict : {Verdict::kRefuted, Verdict::kProven, Verdict::kNotShown}) {
    std::string part;
    for (const Check& check : checks) {
      if (check.verdict != verdict) continue;
      part += (part.empty() ? "" : ", ") + check.what;
      if (!check.why.empty()) part += fmt::format(" ({})", check.why);
    }
    if (!part.empty()) text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", to_string(verdict), part);
  }
  return text;
}

}  // namespace moetap::plugin
