"""What the heads are differentiated at, in the forms that computing them takes."""
