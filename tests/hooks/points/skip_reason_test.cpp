#include "hooks/points/skip_reason.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>

namespace moetap::hooks {
namespace {

std::set<std::string> reasons_of_the_code() {
  std::set<std::string> reasons;
  for (int reason = 0; reason < kNumSkipReasons; ++reason) reasons.insert(to_string(static_cast<SkipReason>(reason)));
  return reasons;
}

// Adds the first column of the table under "What is left out".
void add_reasons_of_page(const std::string& name, std::set<std::string>& reasons) {
  std::ifstream page(MOETAP_SOURCE_DIR "/docs/" + name);
  EXPECT_TRUE(page.is_open());
  bool in_section = false;
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with("## ")) in_section = line == "## What is left out";
    if (!in_section || !line.starts_with("| ") || line.starts_with("| reason")) continue;
    reasons.insert(line.substr(2, line.find(" |", 2) - 2));
  }
}

TEST(SkipReason, HasATextOfItsOwn) {
  EXPECT_EQ(reasons_of_the_code().size(), static_cast<size_t>(kNumSkipReasons));
}

TEST(SkipReason, StandsInTheDocumentation) {
  std::set<std::string> reasons;
  add_reasons_of_page("routers.md", reasons);
  add_reasons_of_page("attention.md", reasons);
  EXPECT_EQ(reasons, reasons_of_the_code());
}

}  // namespace
}  // namespace moetap::hooks
