"""What happens in a call, whichever transport it came on."""
