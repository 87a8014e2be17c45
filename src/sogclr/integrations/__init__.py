"""Use sogclr inside other libraries, and take over what the losses of others have stored."""
