"""A package, so that its shared systems stop with its last test: fixtures of the scope "package" need one."""
