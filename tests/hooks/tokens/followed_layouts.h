#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "hooks/tokens/token_layouts.h"
#include "tests/hooks/graph/graph_values.h"
#include "tests/hooks/moe_sources.h"

namespace moetap::hooks::testing {

/// A model with what the code of the tests uses. Arguments are printed by their first letter in capitals.
inline std::unique_ptr<MethodGraph> graph_of(const std::string& code) {
  return std::make_unique<MethodGraph>(compile({.type = "Model",
                                                .parameters = {{"weight", random_tensor({kExperts, kHidden}, 1)},
                                                               {"square", random_tensor({kHidden, kHidden}, 3)},
                                                               {"kernel", random_tensor({kHidden, 3, 4, 4}, 4)},
                                                               {"places", random_tensor({1, 64, kHidden}, 5)},
                                                               {"first", random_tensor({1, 1, kHidden}, 6)},
                                                               {"bank", random_tensor({5, kHidden, kHidden}, 7)},
                                                               {"table", random_tensor({11, kHidden}, 2)}},
                                                .code = code}),
                                       "forward");
}

inline std::string dim_text(const TokenDim& dim) {
  if (!dim.parts.empty()) {
    std::string text;
    for (const TokenDim& part : dim.parts) text.append(text.empty() ? "(" : "+").append(dim_text(part));
    return text.append(")");
  }
  if (dim.arguments.empty()) return dim.size == 0 ? "?" : std::to_string(dim.size);
  const ArgumentDim& from = dim.arguments[0];
  return std::string(1, static_cast<char>('A' + from.argument)).append(std::to_string(from.dim));
}

/// "batch:A0 sequence:A1": A is the first tensor argument. "where B ne 0.0": the tokens that are left.
inline std::string text(const TokenLayout& layout) {
  if (!layout.known) return "unknown";
  std::string text;
  for (const TokenDim& dim : layout.dims) {
    text.append(text.empty() ? "" : " ").append(to_string(dim.role)).append(":").append(dim_text(dim));
  }
  if (layout.packed) {
    text.append(" where ").append(1, static_cast<char>('A' + layout.packed->argument)).append(" ");
    text.append(to_string(layout.packed->keeps)).append(" ").append(std::to_string(layout.packed->number), 0, 3);
  }
  return text;
}

class Layouts : public ::testing::Test {
 protected:
  void follow(const std::string& code) {
    graph_ = graph_of(code);
    origins_ = std::make_unique<ValueOrigins>(*graph_);
    layouts_ = std::make_unique<TokenLayouts>(*graph_, *origins_);
  }
  TokenLayout layout(const std::string& name) const { return layouts_->of(value_named(*graph_, name), -1); }
  std::string of(const std::string& name) const { return text(layout(name)); }

  /// Of `h` in a forward with `arguments` and `lines`.
  std::string after(const std::string& arguments, const std::vector<std::string>& lines) {
    std::string code = "def forward(self, " + arguments + ") -> Tensor:\n";
    for (const std::string& line : lines) code += "    " + line + "\n";
    follow(code + "    logits = torch.linear(h, self.weight)\n    return logits\n");
    return of("logits");
  }

  std::unique_ptr<MethodGraph> graph_;
  std::unique_ptr<ValueOrigins> origins_;
  std::unique_ptr<TokenLayouts> layouts_;
};

/// What the masks of `arguments` are for the tokens of `h`.
class Masks : public Layouts {
 protected:
  std::string masks(const std::string& arguments, const std::vector<std::string>& lines) {
    after(arguments, lines);
    std::string text;
    for (const TokenMask& mask : layout("logits").masks) {
      text.append(text.empty() ? "" : ", ").append(1, static_cast<char>('A' + mask.argument));
      text.append(" ").append(to_string(mask.dims)).append(" ").append(to_string(mask.means));
      if (mask.places >= 0) text.append(" at ").append(1, static_cast<char>('A' + mask.places));
    }
    return text;
  }
};

inline const std::string kIds = "ids: Tensor";
inline const std::string kEmbed = "x = torch.embedding(self.table, ids)";

inline const std::string kScores = "scores = torch.matmul(x, x.transpose(1, 2))";
inline const std::string kApply = "h = x + torch.matmul(torch.softmax(scores, -1), x)";

}  // namespace moetap::hooks::testing
