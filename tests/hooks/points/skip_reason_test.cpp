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

// First column of the table under "What is left out".
std::set<std::string> reasons_of_the_page() {
  std::ifstream page(MOETAP_SOURCE_DIR "/docs/routers.md");
  EXPECT_TRUE(page.is_open());
  std::set<std::string> reasons;
  bool in_section = false;
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with("## ")) in_section = line == "## What is left out";
    if (!in_section || !line.starts_with("| ") || line.starts_with("| reason")) continue;
    reasons.insert(line.substr(2, line.find(" |", 2) - 2));
  }
  return reasons;
}

TEST(SkipReason, HasATextOfItsOwn) {
  EXPECT_EQ(reasons_of_the_code().size(), static_cast<size_t>(kNumSkipReasons));
}

TEST(SkipReason, StandsInTheDocumentation) {
  EXPECT_EQ(reasons_of_the_page(), reasons_of_the_code());
}

}  // namespace
}  // namespace moetap::hooks
