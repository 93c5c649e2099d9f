#pragma once

#include <cmath>
#include <cstdint>

#include "analysis/numbers/exact_sum.h"
#include "analysis/studies/partial_bytes.h"
#include "analysis/studies/table.h"

namespace moetap::analysis::studies {

/// The mean of values, exactly. Values that are not finite are left out: a missing key of a log is NaN.
struct MeanSum {
  int64_t count = 0;
  ExactSum sum;

  void add(double value) {
    if (!std::isfinite(value)) return;
    ++count;
    sum.add(value);
  }
  void merge(const MeanSum& other) {
    count += other.count;
    sum.merge(other.sum);
  }
  double mean() const {
    const int64_t terms = count - sum.out_of_range();
    return terms <= 0 ? kUndefined : sum.value() / static_cast<double>(terms);
  }
  void save(ByteSink& sink) const {
    sink.integer(count);
    sink.sum(sum);
  }
  void load(ByteSource& source) {
    count = source.integer();
    sum = source.sum();
  }
};

}  // namespace moetap::analysis::studies
