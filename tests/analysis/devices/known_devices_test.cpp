#include "analysis/devices/known_devices.h"

#include <gtest/gtest.h>

namespace moetap::analysis {
namespace {

TEST(KnownDevicesTest, OnlyWhatHoldsForEverIsRemembered) {
  const c10::Device device(c10::kCUDA, 3), other(c10::kCUDA, 0);
  KnownDevices known;
  int asked = 0;
  KernelsRun answer = KernelsRun::kNotKnown;
  const auto ask = [&] {
    ++asked;
    return answer;
  };
  EXPECT_FALSE(known.run_on(device, ask)) << "it lacks memory";
  EXPECT_FALSE(known.run_on(device, ask));
  EXPECT_EQ(asked, 2) << "what may pass is asked again";
  answer = KernelsRun::kYes;
  EXPECT_TRUE(known.run_on(device, ask));
  answer = KernelsRun::kNotKnown;
  EXPECT_TRUE(known.run_on(device, ask));
  EXPECT_EQ(asked, 3) << "what holds for ever is asked once";
  answer = KernelsRun::kNo;
  EXPECT_FALSE(known.run_on(other, ask));
  answer = KernelsRun::kYes;
  EXPECT_FALSE(known.run_on(other, ask)) << "no kernel is compiled later";
  EXPECT_EQ(asked, 4);
}

}  // namespace
}  // namespace moetap::analysis
