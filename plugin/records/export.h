#pragma once

/// Marks what hosts may use of libmoetap.so: classes and functions with code in the library. Everything else is hidden
/// and may change from version to version.
#define MOETAP_API __attribute__((visibility("default")))
