#include "analysis/studies/layer_limits.h"

#include <gtest/gtest.h>

namespace moetap::analysis::studies {
namespace {

LayerLoad layer(const std::string& id, double cv, double entropy, double imbalance, int64_t dead) {
  LayerLoad load;
  load.component = "language_model";
  load.layer = id;
  load.load_cv = cv;
  load.entropy_ratio = entropy;
  load.imbalance = imbalance;
  load.dead_experts = dead;
  return load;
}

TEST(FailedLimits, NameEachLayerThatFails) {
  const std::vector<LayerLoad> layers = {layer("0", 0.5, 0.9, 2, 0), layer("1", 0.6, 0.8, 2.5, 1)};
  EXPECT_TRUE(failed_limits(layers, {}).empty());
  LayerLimits limits;
  limits.max_cv = 0.5;  // equal passes
  limits.min_entropy_ratio = 0.9;
  limits.max_imbalance = 2;
  limits.no_dead = true;
  EXPECT_EQ(failed_limits(layers, limits),
            (std::vector<std::string>{"language_model layer 1: load_cv is 0.6, above 0.5",
                                      "language_model layer 1: entropy_ratio is 0.8, below 0.9",
                                      "language_model layer 1: imbalance (max / mean) is 2.5, above 2",
                                      "language_model layer 1: 1 expert was never used"}));
}

TEST(FailedLimits, WhatIsNotKnownFails) {
  LayerLoad unknown;
  unknown.component = "vision_tower";
  unknown.layer = "3";
  LayerLimits limits;
  limits.min_overlap = 0.5;
  limits.no_dead = true;
  EXPECT_EQ(failed_limits({unknown}, limits),
            (std::vector<std::string>{"vision_tower layer 3: overlap is not known",
                                      "vision_tower layer 3: dead_experts is not known"}));
}

}  // namespace
}  // namespace moetap::analysis::studies
