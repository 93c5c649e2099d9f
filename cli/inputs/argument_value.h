#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <c10/core/Device.h>

#include <stdexcept>

namespace moetap::cli {

/// A value that does not fit its argument. The message is one line: argument and path in it, expected, found.
struct ArgumentError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The value as Python gives it to a ScriptModule: of the argument's type, its tensors on `device`. Lists stand for
/// tuples and tuples for lists; integers for floats; numbers and None for bool; a tensor with one element for a number;
/// a tensor's rows for a tuple or a list that is not one of tensors or numbers; None for a tensor that the model takes
/// for undefined. Any and Union take the type that Python infers. Stricter than Python in two points: text is no list
/// of letters, and a dict no list of its keys.
c10::IValue argument_value(const c10::IValue& value, const c10::Argument& argument, c10::Device device);

}  // namespace moetap::cli
