"""Key ceremonies: scripted, witnessed, resumed after power loss, verified years later."""
